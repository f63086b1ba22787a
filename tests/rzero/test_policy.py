"""Policies: load, save, merge, fingerprint, and the errors of incomplete directories."""

import json
import resource

import pytest
import torch
from safetensors.torch import load_file, save_file

from rzero.gathering import merged_weights
from rzero.policy import LoraSpec, load_policy

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


def test_adapters_on_a_tied_head_are_refused(make_policy, tmp_path):
    make_policy("qwen3_tied").save(tmp_path)
    with pytest.raises(ValueError, match=r"lm_head.*ties together"):
        load(tmp_path, lora={"rank": 2, "alpha": 4, "dropout": 0.0, "target_modules": ["lm_head"]})


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


def test_pad_token_defaults_to_eos(make_policy, tmp_path):
    policy = make_policy("qwen3")
    policy.tokenizer.pad_token = None
    policy.save(tmp_path)
    assert load(tmp_path).tokenizer.pad_token_id == policy.tokenizer.eos_token_id


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
