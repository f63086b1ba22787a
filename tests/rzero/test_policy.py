"""Policies: load, save, merge, fingerprint, and the errors of incomplete directories."""

import json
import resource
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from rzero.gathering import merged_weights
from rzero.policy import LoraSpec, Policy, load_policy
from rzero.repairs import switch_off_dropout
from rzero.sharding import is_outline

LORA = LoraSpec(rank=2, alpha=8, dropout=0.0, target_modules=("q_proj", "down_proj"))
IDS = torch.arange(12)[None]


def load(path, **options):
    return load_policy(path, dtype="float32", attn_implementation="sdpa", **options)


def logits(policy):
    with torch.no_grad():
        return policy.model.eval()(input_ids=IDS).logits


def shake_adapters(policy):
    torch.manual_seed(1)
    for name, parameter in policy.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)


@pytest.mark.parametrize("family", ["qwen3_tied", "gemma3", "gpt2"])
@pytest.mark.parametrize("lora", [None, {"rank": 2, "alpha": 8, "dropout": 0.0, "target_modules": "all-linear"}])
def test_an_outline_is_the_policy_without_values(make_policy, tmp_path, family, lora):
    """Names, shapes, dtypes, what is trained and what is tied; and what is known without weights."""
    made = make_policy(family)
    made.model.generation_config.eos_token_id = [5, 6]
    made.save(tmp_path)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="fan_in_fan_out")  # PEFT, about GPT-2
        whole, outline = (load(tmp_path, lora=lora, gradient_checkpointing=True, outline=o) for o in (False, True))

    def shape(policy):
        model = policy.model
        tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers()]
        return {name: (tensor.shape, tensor.dtype, tensor.requires_grad) for name, tensor in tensors}

    assert shape(outline) == shape(whole)
    assert is_outline(outline.model)
    assert not is_outline(whole.model)
    assert all(tensor.is_meta for tensor in [*outline.model.parameters(), *outline.model.buffers()])
    ends = outline.model.get_input_embeddings().weight, outline.model.get_output_embeddings().weight
    assert (ends[0] is ends[1]) == whole.model.config.tie_word_embeddings
    for known in (Policy.eos_ids, Policy.pad_id, Policy.context, Policy.vocabulary, Policy.size):
        assert known(outline) == known(whole)
    assert outline.eos_ids()[:2] == (5, 6)
    assert outline.notes == whole.notes
    assert outline.model.training == whole.model.training
    assert outline.model.is_gradient_checkpointing


def test_an_outline_needs_no_adapters_that_are_merged(make_policy, tmp_path):
    make_policy("qwen3").save(tmp_path / "base")
    load(tmp_path / "base", lora=LORA).save(tmp_path / "adapters")
    outline = load(tmp_path / "adapters", outline=True)
    assert outline.model.state_dict().keys() == load(tmp_path / "adapters").model.state_dict().keys()
    assert all(parameter.is_meta and parameter.requires_grad for parameter in outline.model.parameters())


@pytest.mark.parametrize("family", ["qwen3", "qwen3_tied", "gemma3", "gpt2"])
def test_save_then_load_gives_the_same_policy_bit_for_bit(make_policy, tmp_path, family):
    policy = make_policy(family)
    policy.save(tmp_path / "saved")
    again = load(tmp_path / "saved")
    assert torch.equal(logits(policy), logits(again))
    assert policy.weights_hash() == again.weights_hash()
    assert policy.eos_ids() == again.eos_ids() == (policy.tokenizer.eos_token_id,)
    assert again.tokenizer("What is 3?")["input_ids"] == policy.tokenizer("What is 3?")["input_ids"]
    assert not (tmp_path / "saved.partial").exists()


@pytest.mark.parametrize("family", ["qwen3", "qwen3_tied"])
def test_adapters_are_merged_into_copies_and_never_in_place(make_policy, tmp_path, family):
    make_policy(family).save(tmp_path / "base")
    policy = load(tmp_path / "base", lora=LORA)
    shake_adapters(policy)
    before = {name: tensor.clone() for name, tensor in policy.model.state_dict().items()}
    policy.save(tmp_path / "saved")
    merged = load(tmp_path / "saved")
    assert torch.allclose(logits(policy), logits(merged), atol=1e-4)
    assert not torch.allclose(logits(load(tmp_path / "base")), logits(merged), atol=1e-1)
    assert policy.weights_hash() == merged.weights_hash()
    assert before.keys() == policy.model.state_dict().keys()
    assert all(torch.equal(before[name], tensor) for name, tensor in policy.model.state_dict().items())


def test_adapters_can_be_given_as_a_mapping(make_policy, tmp_path):
    make_policy("qwen3").save(tmp_path)
    policy = load(tmp_path, lora={"rank": 2, "alpha": 4, "dropout": 0.0, "target_modules": ["q_proj"]})
    trained = [name for name, parameter in policy.model.named_parameters() if parameter.requires_grad]
    assert trained
    assert all("lora_" in name for name in trained)


def test_dropout_of_adapters_is_refused(make_policy, tmp_path):
    make_policy("qwen3").save(tmp_path)
    with pytest.raises(ValueError, match=r"policy\.lora\.dropout must be 0, got 0\.1"):
        load(tmp_path, lora={"rank": 2, "alpha": 4, "dropout": 0.1, "target_modules": ["q_proj"]})


@pytest.mark.parametrize(
    "targets",
    [["lm_head"], ["q_proj", "embed_tokens"], ["model.embed_tokens"], ["model.layers.0.self_attn.q_proj", "lm_head"]],
)
def test_adapters_on_tied_embeddings_are_refused_however_they_are_named(make_policy, tmp_path, targets):
    make_policy("qwen3_tied").save(tmp_path)
    with pytest.raises(ValueError, match=r"target_modules has '(lm_head|(model\.)?embed_tokens)': .* ties together"):
        load(tmp_path, lora={"rank": 2, "alpha": 4, "dropout": 0.0, "target_modules": targets})


def test_adapters_on_untied_embeddings_are_right_after_save_and_load(make_policy, tmp_path):
    make_policy("qwen3").save(tmp_path / "base")
    lora = {"rank": 2, "alpha": 4, "dropout": 0.0, "target_modules": ["model.embed_tokens", "lm_head"]}
    policy = load(tmp_path / "base", lora=lora)
    torch.manual_seed(1)
    for name, parameter in policy.model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    policy.save(tmp_path / "saved")
    assert torch.equal(logits(load(tmp_path / "base", lora=lora, adapter=tmp_path / "saved")), logits(policy))
    torch.testing.assert_close(logits(load(tmp_path / "saved")), logits(policy), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(logits(load(tmp_path / "base")), logits(policy), atol=1e-2)


def test_all_linear_is_a_word_of_its_own(make_policy, tmp_path):
    make_policy("qwen3_tied").save(tmp_path / "base")
    lora = {"rank": 2, "alpha": 4, "dropout": 0.0, "target_modules": "all-linear"}
    policy = load(tmp_path / "base", lora=lora)
    shake_adapters(policy)
    adapted = {name.split(".")[-4] for name, _ in policy.model.named_parameters() if ".lora_A" in name}
    assert adapted == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    policy.save(tmp_path / "saved")
    assert torch.equal(logits(load(tmp_path / "base", lora=lora, adapter=tmp_path / "saved")), logits(policy))


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        ("q_proj", r"a list of names or all-linear, got 'q_proj'; for one module write \[q_proj\]"),
        (["q_proj", "c_attn"], r"has 'c_attn', and this model has no module of that name"),
        (["proj"], r"has 'proj', and this model has no module of that name"),
    ],
)
def test_adapters_on_modules_that_are_not_there_are_one_line(make_policy, tmp_path, targets, said):
    make_policy("qwen3").save(tmp_path)
    with pytest.raises(ValueError, match=said):
        load(tmp_path, lora={"rank": 2, "alpha": 4, "dropout": 0.0, "target_modules": targets})


def edit(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.filterwarnings("ignore:.*generation flags")
@pytest.mark.parametrize(
    "wrong", [{"temperature": 0.6, "top_p": 0.9}, {"length_penalty": 0.5}, {"pad_token_id": -1}, {"min_p": 0.1}]
)
def test_a_generation_config_that_cannot_be_saved_is_reduced_to_its_ids_with_a_line(make_policy, tmp_path, wrong):
    make_policy("qwen3").save(tmp_path / "base")
    edit(tmp_path / "base" / "generation_config.json", eos_token_id=[256, 258], **wrong)
    policy = load(tmp_path / "base")
    [note] = policy.notes
    assert (
        note == f"generation_config.json could not be saved again ({', '.join(wrong)}), so only its token ids are kept"
    )
    policy.save(tmp_path / "trained")
    again = load(tmp_path / "trained")
    assert again.notes == ()
    assert {256, 258} <= set(policy.eos_ids())
    assert policy.eos_ids() == again.eos_ids()


def test_a_generation_config_that_can_be_saved_stays(make_policy, tmp_path):
    make_policy("qwen3").save(tmp_path / "base")
    edit(tmp_path / "base" / "generation_config.json", temperature=0.6, do_sample=True)
    policy = load(tmp_path / "base")
    policy.save(tmp_path / "trained")
    assert policy.notes == ()
    assert json.loads((tmp_path / "trained" / "generation_config.json").read_text())["temperature"] == 0.6


def test_dropout_is_off_from_the_start_and_said(make_policy, tmp_path):
    """trl#3234: two passes over the same tokens in training mode agree; what is saved keeps the rates it came with."""
    make_policy("gpt2").save(tmp_path / "base")
    policy = load(tmp_path / "base")
    assert policy.notes == ("dropout is set to 0: two passes over the same tokens must give the same log-probs",)
    policy.model.train()
    with torch.no_grad():
        assert torch.equal(policy.model(input_ids=IDS).logits, policy.model(input_ids=IDS).logits)
    policy.save(tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["resid_pdrop"] == 0.1


def test_saving_over_an_older_save_replaces_it(make_policy, tmp_path):
    make_policy("qwen3", seed=0).save(tmp_path / "p")
    (tmp_path / "p" / "notes.txt").write_text("kept")
    newer = make_policy("qwen3", seed=1)
    newer.save(tmp_path / "p")
    assert load(tmp_path / "p").weights_hash() == newer.weights_hash()
    assert (tmp_path / "p" / "notes.txt").read_text() == "kept"


def test_the_hash_sees_one_changed_number(make_policy):
    policy = make_policy("qwen3")
    before = policy.weights_hash()
    with torch.no_grad():
        policy.model.model.norm.weight[3] += 1e-3
    assert policy.weights_hash() != before


def test_a_copy_is_frozen_and_separate(make_policy):
    policy = make_policy("qwen3")
    policy.model.train()
    reference = policy.copy()
    before = logits(reference)
    assert not reference.model.training
    assert not any(parameter.requires_grad for parameter in reference.model.parameters())
    assert all(parameter.requires_grad for parameter in policy.model.parameters())
    with torch.no_grad():
        policy.model.lm_head.weight.add_(1.0)
    assert torch.equal(before, logits(reference))
    assert policy.model.training


def test_merged_weights_of_a_plain_model_are_views(make_policy):
    model = make_policy("qwen3").model
    assert merged_weights(model)["lm_head.weight"].data_ptr() == model.lm_head.weight.data_ptr()


def test_a_disk_that_takes_no_more_is_an_oserror_and_leaves_nothing(make_policy, tmp_path):
    """The kernel refuses the bytes, in whatever language they are written."""
    policy, limits = make_policy("qwen3"), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(OSError, match="model"):
            policy.save(tmp_path / "model")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("family", ["opt", "bloom"])
def test_dropout_is_off_whoever_applies_it(family):
    """Layers that are left out, and rates that are no modules of their own."""
    rates = dict.fromkeys(("dropout", "layerdrop", "activation_dropout", "attention_dropout", "hidden_dropout"), 0.5)
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": 40}
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **sizes, **rates, ffn_dim=32, word_embed_proj_dim=32, pad_token_id=0)
    model = AutoModelForCausalLM.from_config(config).train()

    def differs():
        with torch.no_grad():
            return not torch.equal(model(input_ids=IDS).logits, model(input_ids=IDS).logits)

    assert differs()
    assert switch_off_dropout(model)
    assert not differs()
    assert not switch_off_dropout(model)


def test_pad_token_defaults_to_eos_with_a_line(make_policy, tmp_path):
    policy = make_policy("qwen3")
    policy.tokenizer.pad_token = None
    policy.save(tmp_path)
    loaded = load(tmp_path)
    assert loaded.tokenizer.pad_token_id == loaded.pad_id() == policy.tokenizer.eos_token_id
    assert loaded.notes == ("there is no pad token; the end-of-sequence token '<|end|>' takes its place",)


def test_rows_are_filled_up_without_any_special_token(make_policy):
    policy = make_policy("qwen3")
    policy.tokenizer.pad_token = policy.tokenizer.eos_token = None
    assert policy.pad_id() == policy.model.generation_config.eos_token_id
    policy.model.generation_config.eos_token_id = None
    assert (policy.pad_id(), policy.eos_ids()) == (0, ())


def test_a_missing_path_is_never_looked_up_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs").mkdir()
    for path in (tmp_path / "none", "./none", "none", "outputs/none", "a/b/c"):
        with pytest.raises(FileNotFoundError, match=r"does not exist; give a directory"):
            load(path)


@pytest.mark.parametrize(
    ("absent", "said"),
    [
        (("config.json",), "lacks config.json;"),
        (("model.safetensors",), r"lacks weights \(\*.safetensors\);"),
        (("tokenizer.json",), r"lacks a tokenizer \(tokenizer.json\);"),
        (("config.json", "tokenizer.json"), "lacks config.json and a tokenizer"),
    ],
)
def test_an_incomplete_directory_names_what_is_missing(make_policy, tmp_path, absent, said):
    make_policy("qwen3").save(tmp_path)
    for name in absent:
        (tmp_path / name).unlink()
    with pytest.raises(FileNotFoundError, match=said) as caught:
        load(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "save_pretrained" in str(caught.value)


def test_broken_files_are_one_clear_error(make_policy, tmp_path):
    make_policy("qwen3").save(tmp_path)
    weights = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(ValueError, match="cannot load a policy from"):
        load(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="not valid JSON"):
        load(tmp_path)


def test_absent_weights_are_not_made_up(make_policy, tmp_path):
    make_policy("qwen3").save(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks weights for \['model.norm.weight'\]"):
        load(tmp_path)


def test_a_tokenizer_too_large_for_the_model(make_policy, tmp_path):
    policy = make_policy("qwen3", vocab_size=310)
    policy.tokenizer.add_tokens([f"<extra{i}>" for i in range(10)])
    policy.save(tmp_path)
    with pytest.raises(ValueError, match="the tokenizer has 314 tokens, the model embeds only 310"):
        load(tmp_path)


@pytest.mark.parametrize("dtype", ["float16", "int64", "banana", "bfloat16"])
def test_unusable_dtypes(tmp_path, dtype, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"policy\.dtype"):
        load_policy(tmp_path, dtype=dtype, attn_implementation="sdpa")


def test_gradient_checkpointing_is_switched_on(make_policy, tmp_path):
    make_policy("qwen3").save(tmp_path)
    assert load(tmp_path, gradient_checkpointing=True).model.is_gradient_checkpointing
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "qwen3"
