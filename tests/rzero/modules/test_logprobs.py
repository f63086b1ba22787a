"""Chunked log-probabilities against the plain way through full logits."""

import copy
import weakref

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from rzero.modules import logprobs
from rzero.modules.logprobs import LogitShape, completion_logprobs, head_logprobs

SIZES = {
    "vocab_size": 97,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def qwen3(*, tied=True):
    return Qwen3ForCausalLM(Qwen3Config(**SIZES, head_dim=8, tie_word_embeddings=tied))


def lora():
    model = get_peft_model(qwen3(), LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    assert not model.get_output_embeddings().weight.requires_grad
    return model


MODELS = {
    "tied": qwen3,
    "untied": lambda: qwen3(tied=False),
    "lora": lora,
    "gemma2_softcap": lambda: Gemma2ForCausalLM(Gemma2Config(**SIZES, head_dim=8, final_logit_softcapping=2.0)),
    "granite_divides": lambda: GraniteForCausalLM(GraniteConfig(**SIZES, logits_scaling=8.0)),
    "cohere_multiplies": lambda: CohereForCausalLM(CohereConfig(**SIZES, logit_scale=0.25)),
}


def batch():
    """Three rows padded on the right, with completions that start at different columns."""
    generator = torch.Generator().manual_seed(3)
    input_ids_BT = torch.randint(3, 97, (3, 14), generator=generator)
    completion_mask_BT = torch.zeros(3, 14, dtype=torch.bool)
    for row, (start, stop) in enumerate([(4, 14), (6, 9), (1, 11)]):
        completion_mask_BT[row, start:stop] = True
        input_ids_BT[row, stop:] = 0
    attention_mask_BT = (input_ids_BT != 0).long()
    return input_ids_BT, attention_mask_BT, completion_mask_BT


def dense(model, input_ids_BT, attention_mask_BT, completion_mask_BT, *, temperature):
    logits_BTV = model(input_ids=input_ids_BT, attention_mask=attention_mask_BT).logits.float() / temperature
    logq_BTV = logits_BTV.log_softmax(-1)
    logp_BT = logq_BTV[:, :-1].gather(2, input_ids_BT[:, 1:, None]).squeeze(2)
    entropy_BT = -(logq_BTV.exp() * logq_BTV).sum(-1)[:, :-1]
    pad = (1, 0)
    return tuple(
        torch.nn.functional.pad(value_BT, pad).where(completion_mask_BT, torch.tensor(0.0))
        for value_BT in (logp_BT, entropy_BT)
    )


def gradients(model, scalar):
    model.zero_grad()
    scalar.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("keep", [True, False], ids=["kept", "recomputed"])
@pytest.mark.parametrize("chunk_tokens", [1, 5, 1000])
@pytest.mark.parametrize("name", MODELS)
def test_equals_dense_forward_and_backward(name, chunk_tokens, keep, monkeypatch):
    if not keep:
        monkeypatch.setattr(logprobs, "KEEP_LOGITS_BELOW", 0)
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    with torch.no_grad():  # the default initialisation is close to uniform: make logits of order ten
        model.get_output_embeddings().weight.mul_(
            5 if name in ("tied", "lora") else 30
        )  # tied: the embeddings grow with it
    input_ids_BT, attention_mask_BT, completion_mask_BT = batch()
    weights_BT = torch.randn(3, 14)

    expected = dense(model, input_ids_BT, attention_mask_BT, completion_mask_BT, temperature=0.7)
    got = completion_logprobs(
        model,
        input_ids_BT=input_ids_BT,
        completion_mask_BT=completion_mask_BT,
        temperature=0.7,
        chunk_tokens=chunk_tokens,
        entropy=True,
    )
    torch.testing.assert_close(got[0], expected[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(got[1], expected[1], atol=1e-5, rtol=1e-5)
    assert expected[1].max() > 0.1  # the entropies say something

    expected_grads = gradients(model, (weights_BT * (expected[0] + 0.5 * expected[1])).sum())
    got_grads = gradients(model, (weights_BT * (got[0] + 0.5 * got[1])).sum())
    assert expected_grads.keys() == got_grads.keys()
    for parameter, expected_grad in expected_grads.items():
        scale = expected_grad.abs().max().clamp(min=1.0)
        torch.testing.assert_close(got_grads[parameter] / scale, expected_grad / scale, atol=1e-5, rtol=0)


def in_blocks_of(rows, vocabulary, monkeypatch):
    """A vocabulary of that size is a wide one."""
    monkeypatch.setattr(logprobs, "WIDE", vocabulary)
    monkeypatch.setattr(logprobs, "BLOCK", rows * vocabulary)


def test_a_few_rows_at_a_time_are_the_same_numbers(monkeypatch):
    torch.manual_seed(2)
    hidden_SE, weight_VE = torch.randn(11, 4, requires_grad=True), torch.randn(9, 4, requires_grad=True)
    settings = {"targets_S": torch.arange(11) % 9, "shape": LogitShape(), "chunk_tokens": 6, "entropy": True}
    monkeypatch.setattr(logprobs, "KEEP_LOGITS_BELOW", 0)
    found = []
    for rows in (None, 4):
        if rows:
            in_blocks_of(rows, 9, monkeypatch)
        logp_S, entropy_S = head_logprobs(hidden_SE, weight_VE=weight_VE, **settings)
        found.append((logp_S, entropy_S, *torch.autograd.grad((logp_S + entropy_S).sum(), (hidden_SE, weight_VE))))
    for whole, blocked in zip(*found, strict=True):
        torch.testing.assert_close(blocked, whole, atol=1e-6, rtol=1e-6)


def of_five_tokens(hidden_SE, weight_VE, *, shape, dropped=None):
    return head_logprobs(
        hidden_SE,
        weight_VE=weight_VE,
        targets_S=torch.tensor([0, 6, 3, 3, 1]),
        shape=shape,
        chunk_tokens=4,
        entropy=True,
        dropped=dropped,
    )


SHAPES = pytest.mark.parametrize(
    "shape", [LogitShape(), LogitShape(scale=0.5, cap=3.0, temperature=1.7)], ids=["plain", "cap"]
)


@SHAPES
@pytest.mark.parametrize("logits", ["kept", "recomputed", "in blocks"])
def test_gradient_of_head_by_finite_differences(shape, logits, monkeypatch):
    if logits != "kept":
        monkeypatch.setattr(logprobs, "KEEP_LOGITS_BELOW", 0)
    if logits == "in blocks":
        in_blocks_of(2, 7, monkeypatch)
    torch.manual_seed(1)
    hidden_SE = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    weight_VE = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)

    def both(hidden_SE, weight_VE):
        return of_five_tokens(hidden_SE, weight_VE, shape=shape)

    assert torch.autograd.gradcheck(both, (hidden_SE, weight_VE))


@SHAPES
@pytest.mark.parametrize("asked", ["logp", "entropy", "both"])
@pytest.mark.parametrize("in_blocks", [False, True])
def test_gradient_through_a_head_that_nobody_trains(shape, asked, in_blocks, monkeypatch):
    monkeypatch.setattr(logprobs, "KEEP_LOGITS_BELOW", 0)
    if in_blocks:
        in_blocks_of(2, 7, monkeypatch)
    torch.manual_seed(1)
    weight_VE = torch.randn(7, 3, dtype=torch.float64)
    dropped = logprobs.Dropped(
        tokens_BV=torch.tensor([[False] * 2 + [True] + [False] * 4]), row_S=torch.zeros(5).long()
    )

    def chosen(hidden_SE):
        logp_S, entropy_S = of_five_tokens(hidden_SE, weight_VE, shape=shape, dropped=dropped)
        return {"logp": logp_S, "entropy": entropy_S, "both": (logp_S, entropy_S)}[asked]

    assert torch.autograd.gradcheck(chosen, torch.randn(5, 3, dtype=torch.float64, requires_grad=True))


def test_a_head_that_nobody_trains_meets_each_token_twice(monkeypatch):
    """Logits, and what their gradient says of hidden states: the third product is left out."""
    monkeypatch.setattr(logprobs, "KEEP_LOGITS_BELOW", 0)
    made, once = [], logprobs._logits
    monkeypatch.setattr(logprobs, "_logits", lambda *args, **more: made.append(args) or once(*args, **more))
    hidden_SE = torch.randn(6, 4, requires_grad=True)
    for trained, products in ((False, 2), (True, 4)):
        weight_VE = torch.randn(9, 4, requires_grad=trained)
        logp_S, _ = head_logprobs(
            hidden_SE, weight_VE=weight_VE, targets_S=torch.arange(6), shape=LogitShape(), chunk_tokens=3, entropy=True
        )
        logp_S.sum().backward()
        assert len(made) == products, "chunks whose logits were made"
        made.clear()


@pytest.mark.parametrize("trained", [False, True])
def test_the_logits_of_one_chunk_exist_at_a_time(monkeypatch, trained):
    monkeypatch.setattr(logprobs, "KEEP_LOGITS_BELOW", 0)
    made, once = [], logprobs._logits

    def one_at_a_time(*args, **more):
        assert not any(logits() is not None for logits in made)
        logits_UV = once(*args, **more)
        made.append(weakref.ref(logits_UV))
        return logits_UV

    monkeypatch.setattr(logprobs, "_logits", one_at_a_time)
    logp_S, entropy_S = head_logprobs(
        torch.randn(6, 4, requires_grad=True), weight_VE=torch.randn(9, 4, requires_grad=trained),
        targets_S=torch.arange(6), shape=LogitShape(), chunk_tokens=2, entropy=True,
    )  # fmt: skip
    assert len(made) == 3
    (logp_S + entropy_S).sum().backward()
    assert len(made) == 6


def test_without_entropy_there_is_none_and_values_stay():
    torch.manual_seed(0)
    model = qwen3().eval()
    input_ids_BT, _, completion_mask_BT = batch()
    arguments = {
        "input_ids_BT": input_ids_BT,
        "completion_mask_BT": completion_mask_BT,
        "temperature": 1.0,
        "chunk_tokens": 4,
    }
    with torch.no_grad():
        logp_BT, entropy_BT = completion_logprobs(model, **arguments)
        assert entropy_BT is None
        assert torch.equal(logp_BT, completion_logprobs(model, **arguments, entropy=True)[0])


def test_empty_mask_gives_a_differentiable_zero():
    model = qwen3().eval()
    input_ids_BT, _, completion_mask_BT = batch()
    logp_BT, _ = completion_logprobs(
        model,
        input_ids_BT=input_ids_BT,
        completion_mask_BT=torch.zeros_like(completion_mask_BT),
        temperature=1.0,
        chunk_tokens=8,
    )
    grads = gradients(model, logp_BT.sum())
    assert grads.keys() == {name for name, _ in model.named_parameters()}
    assert all(not grad.any() for grad in grads.values())


def test_autocast_and_low_precision_stay_close():
    torch.manual_seed(0)
    model = qwen3().eval()
    input_ids_BT, _, completion_mask_BT = batch()
    arguments = {
        "input_ids_BT": input_ids_BT,
        "completion_mask_BT": completion_mask_BT,
        "temperature": 1.0,
        "chunk_tokens": 4,
    }
    exact_BT, _ = completion_logprobs(model, **arguments)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast_BT, _ = completion_logprobs(model, **arguments)
    half_BT, _ = completion_logprobs(copy.deepcopy(model).bfloat16(), **arguments)
    for low_BT in (cast_BT, half_BT):
        assert low_BT.dtype == torch.float32
        low_BT.sum().backward()
        torch.testing.assert_close(low_BT, exact_BT, atol=0.05, rtol=0)


def test_refusals():
    model = qwen3()
    input_ids_BT, _, completion_mask_BT = batch()
    arguments = {"input_ids_BT": input_ids_BT, "chunk_tokens": 8}
    with pytest.raises(ValueError, match="prompt is empty"):
        completion_logprobs(model, **arguments, completion_mask_BT=torch.ones_like(completion_mask_BT), temperature=1.0)
    with pytest.raises(ValueError, match="positive temperature"):
        completion_logprobs(model, **arguments, completion_mask_BT=completion_mask_BT, temperature=0.0)
    model.lm_head = torch.nn.Linear(32, 97, bias=True)
    with pytest.raises(ValueError, match="without bias"):
        completion_logprobs(model, **arguments, completion_mask_BT=completion_mask_BT, temperature=1.0)


def rank_of_two(rank, rendezvous):
    """One row per rank on a sharded model, against both rows on a whole one. Runs in a process of its own."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    input_ids_BT, _, completion_mask_BT = (value[:2] for value in batch())
    for name in ("tied", "untied", "lora"):
        torch.manual_seed(0)
        model = MODELS[name]().eval()

        def score(rows, *, scale, model=model):
            logp_BT, _ = completion_logprobs(
                model,
                input_ids_BT[rows],
                completion_mask_BT[rows],
                temperature=0.7,
                chunk_tokens=4,
            )
            return logp_BT.detach(), gradients(model, scale * logp_BT.sum())

        expected_BT, expected_grads = score(slice(None), scale=1.0)
        for layer in model.get_decoder().layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
        logp_BT, grads = score(slice(rank, rank + 1), scale=2.0)  # FSDP averages over ranks
        torch.testing.assert_close(logp_BT, expected_BT[rank : rank + 1])
        assert grads.keys() == expected_grads.keys()
        for parameter, grad in grads.items():
            torch.testing.assert_close(grad.full_tensor(), expected_grads[parameter], atol=1e-5, rtol=1e-5)
    distributed.destroy_process_group()


@pytest.mark.slow
def test_sharded_over_two_ranks(tmp_path):
    torch.multiprocessing.spawn(rank_of_two, args=(tmp_path / "rendezvous",), nprocs=2)
