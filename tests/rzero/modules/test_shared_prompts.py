"""Completions behind one copy of their prompt against rows with a copy each."""

import random

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, Gemma2Config, Gemma2ForCausalLM, Lfm2Config, Lfm2ForCausalLM

from rzero.modules.logprobs import completion_logprobs
from rzero.modules.shared_prompts import make_ready

PROMPTS = (1, 40, 9, 33)  # tokens; with Gemma's window of 24 behind some and inside others
COMPLETIONS = (1, 2, 17, 60)


def batch():
    """Four prompts with four completions each, in random order: ids, mask, number of the prompt."""
    draw = random.Random(0)
    prompts = [[draw.randrange(3, 60) for _ in range(length)] for length in PROMPTS]
    rows = [(index, [draw.randrange(3, 60) for _ in range(length)]) for index in range(4) for length in COMPLETIONS]
    draw.shuffle(rows)
    width = max(len(prompts[index]) + len(completion) for index, completion in rows)
    input_ids_BT = torch.zeros(len(rows), width, dtype=torch.long)
    completion_mask_BT = torch.zeros(len(rows), width, dtype=torch.bool)
    for row, (index, completion) in enumerate(rows):
        start, stop = len(prompts[index]), len(prompts[index]) + len(completion)
        input_ids_BT[row, :stop] = torch.tensor(prompts[index] + completion)
        completion_mask_BT[row, start:stop] = True
    return input_ids_BT, completion_mask_BT, tuple(index for index, _ in rows)


def score(model, input_ids_BT, completion_mask_BT, *, prompts=None):
    """Log-probs, entropies, and the gradient of a random mixture of both."""
    model.zero_grad()
    logp_BT, entropy_BT = completion_logprobs(
        model, input_ids_BT, completion_mask_BT, temperature=0.7, chunk_tokens=50, entropy=True, prompts=prompts
    )
    weights = torch.randn(2, *logp_BT.shape, generator=torch.Generator().manual_seed(0))
    (logp_BT * weights[0] + entropy_BT * weights[1]).sum().backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return logp_BT.detach(), entropy_BT.detach(), gradients


def assert_same(got, expected):
    for value, other in zip(got[:2], expected[:2], strict=True):
        torch.testing.assert_close(value, other, atol=1e-5, rtol=1e-5)
    assert got[2].keys() == expected[2].keys() != set()
    for name, gradient in expected[2].items():
        scale = gradient.abs().max().clamp(min=1.0)
        torch.testing.assert_close(got[2][name] / scale, gradient / scale, atol=1e-5, rtol=0)


@pytest.mark.parametrize("tuning", ["full", "lora", "checkpointing"])
@pytest.mark.parametrize("family", ["qwen3", "qwen2", "llama", "gemma3", "gpt2"])
def test_values_and_gradients_are_those_of_separate_rows(make_policy, family, tuning):
    model = make_policy(family).model
    if tuning == "lora":
        model = get_peft_model(
            model,
            LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, fan_in_fan_out=family == "gpt2"),
        )
    if tuning == "checkpointing":
        model.train().gradient_checkpointing_enable({"use_reentrant": False})
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    input_ids_BT, completion_mask_BT, prompts = batch()
    expected = score(model, input_ids_BT, completion_mask_BT)
    make_ready(model)
    assert_same(score(model, input_ids_BT, completion_mask_BT, prompts=prompts), expected)
    assert_same(score(model, input_ids_BT, completion_mask_BT, prompts=range(16)), expected)  # nothing is shared


def test_each_prompt_goes_through_the_model_once_and_no_padding_does(make_policy):
    model = make_policy("qwen3").model
    make_ready(model)
    seen = []
    model.model.layers[1].mlp.register_forward_hook(lambda module, args, out: seen.append(args[0].shape[:2]))
    input_ids_BT, completion_mask_BT, prompts = batch()
    score(model, input_ids_BT, completion_mask_BT, prompts=prompts)
    assert seen == [(1, sum(PROMPTS) + 4 * sum(length - 1 for length in COMPLETIONS))]


def test_other_passes_go_on_as_before(make_policy, tmp_path):
    """Masks, padding on the left and saved files are those of a model that was never made ready."""
    policy, ready = make_policy("gemma3"), make_policy("gemma3")
    make_ready(ready.model)
    make_ready(ready.model)  # twice is once
    ids = torch.arange(3, 63).view(2, 30)
    mask = torch.ones_like(ids)
    mask[0, :11] = 0
    for arguments in ({"attention_mask": mask}, {}):
        with torch.no_grad():
            expected, got = (p.model(input_ids=ids, **arguments).logits for p in (policy, ready))
        assert torch.equal(got[:, 11:], expected[:, 11:])
    ready.save(tmp_path / "model")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert loaded.config._attn_implementation == "sdpa"


def test_prompts_that_differ_are_refused(make_policy):
    model = make_policy("qwen3").model
    make_ready(model)
    input_ids_BT, completion_mask_BT, prompts = batch()
    wrong = (prompts[0] + 1, *prompts[1:])
    for numbers in (wrong, [0] * 16):
        with pytest.raises(ValueError, match="should share a prompt have different ones"):
            score(model, input_ids_BT, completion_mask_BT, prompts=numbers)


SIZES = {
    "vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 64, "max_position_embeddings": 128, "pad_token_id": 0,
}  # fmt: skip


def test_architectures_it_would_be_wrong_for_are_refused(make_policy):
    eager = make_policy("qwen3").model
    eager.set_attn_implementation("eager")
    with pytest.raises(ValueError, match=r"needs policy\.attn_implementation=sdpa, got eager"):
        make_ready(eager)
    capped = Gemma2ForCausalLM(Gemma2Config(**SIZES, head_dim=8, attn_logit_softcapping=30.0))
    capped.set_attn_implementation("sdpa")
    convolving = Lfm2ForCausalLM(Lfm2Config(**SIZES, layer_types=["conv", "full_attention"]))
    for model, reason in ((capped, "depends on softcap"), (convolving, "1 of 2 layers of Lfm2ForCausalLM")):
        make_ready(model)
        input_ids_BT, completion_mask_BT, prompts = batch()
        with pytest.raises(ValueError, match=f"{reason}.*share_prompts"):
            score(model, input_ids_BT, completion_mask_BT, prompts=prompts)
