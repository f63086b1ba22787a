"""Rollouts in int8: near the policy's own log-probs, adapters untouched by the rounding, wrong weights refused."""

import gc
import json
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rzero.adapters import LoraSpec, add_adapters
from rzero.engines.embedded import EmbeddedEngine, linear
from rzero.engines.embedded.linear import Adapted, Dense, Rounded, exact_products
from rzero.engines.embedded.rounded import LAYER_TOLERANCE, LOGITS_TOLERANCE, RoundedDecoder, errors
from rzero.engines.embedded.timing import best_seconds
from rzero.engines.threads import torch_threads
from rzero.policy import Policy, load_policy
from rzero.processes.cpu import _facts
from rzero.types import Prompt, Sampling

PROMPTS = [Prompt(user=text) for text in ("What is 12 + 34?", "Let x be a number. " * 3)]
SETTINGS = {
    "max_rows": 64, "threads": 1, "compact_below": 0.85, "prefill_tokens": 100, "first_capacity": 4,
    "verify_sync": True, "decoder": "auto", "dtype": "int8",
}  # fmt: skip
ADAPTERS = LoraSpec(
    rank=4, alpha=8, dropout=0.0,
    target_modules=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
)  # fmt: skip
FAMILIES = ["qwen3", "qwen3_tied", "qwen2", "llama", "gemma3"]


def with_lora(policy, *, size=0.05, spec=ADAPTERS, seed=3):
    adapted = Policy(model=add_adapters(policy.copy().model, spec), tokenizer=policy.tokenizer)
    change(adapted, size=size, seed=seed)
    return adapted


@torch.no_grad()
def change(policy, *, size, seed):
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in policy.model.named_parameters():
        if "lora_B" in name:
            parameter.copy_(size * torch.randn(parameter.shape, generator=generator))


def engine_of(policy, **changes):
    engine = EmbeddedEngine(**{**SETTINGS, **changes})
    engine.sync(policy)
    return engine


def policy_logprobs(policy, group):
    for completion in group.completions:
        ids = torch.tensor([[*group.prompt_ids, *completion.token_ids]])
        with torch.no_grad():
            logits_TV = policy.model(input_ids=ids).logits[0, len(group.prompt_ids) - 1 : -1]
        yield logits_TV.log_softmax(-1).gather(1, torch.tensor(completion.token_ids)[:, None]).squeeze(1)


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_logprobs_are_near_the_policys(make_policy, family, lora):
    policy = with_lora(make_policy(family)) if lora else make_policy(family)
    engine = engine_of(policy)
    differences = [
        torch.tensor(completion.logprobs) - expected
        for group in engine.generate(PROMPTS, Sampling(n=4, max_tokens=20, seed=1))
        for completion, expected in zip(group.completions, policy_logprobs(policy, group), strict=True)
    ]
    assert 0 < torch.cat(differences).abs().mean() < 0.15  # nats; logits of these models are large


@pytest.mark.parametrize("family", FAMILIES)
def test_rounding_explains_a_small_part_of_what_is_allowed(make_policy, family):
    policy = with_lora(make_policy(family))
    for part, error in errors(engine_of(policy)._decoder._fused.weights, policy):
        assert error < (LOGITS_TOLERANCE if part == "the output layer" else LAYER_TOLERANCE) / 4, part


def test_what_adapters_learned_is_kept_where_rounding_it_would_drown_it():
    x_WI = torch.randn(8, 32, generator=torch.Generator().manual_seed(0))
    weight_IO = 0.2 * torch.randn(32, 24, generator=torch.Generator().manual_seed(1))
    down_IK = torch.randn(32, 2, generator=torch.Generator().manual_seed(2))
    up_KO = 1e-5 * torch.randn(2, 24, generator=torch.Generator().manual_seed(3))
    beside = Adapted(Rounded(weight_IO, None), down_IK, up_KO)(x_WI) - Rounded(weight_IO, None)(x_WI)
    merged = Rounded(weight_IO + down_IK @ up_KO, None)(x_WI) - Rounded(weight_IO, None)(x_WI)
    true = x_WI @ down_IK @ up_KO
    assert torch.allclose(beside, true, atol=1e-6)
    assert (merged - true).norm() > 0.5 * true.norm()


def test_engines_share_one_base_until_nobody_needs_it(make_policy):
    challenger = with_lora(make_policy("qwen3_tied"))
    solver = Policy(model=challenger.copy().model, tokenizer=challenger.tokenizer)
    change(solver, size=0.1, seed=9)
    one, other = engine_of(challenger), engine_of(solver)
    first, second = one._decoder._fused.weights, other._decoder._fused.weights
    assert first.head is second.head
    assert first.layers[0].qkv.below is second.layers[0].qkv.below
    assert not torch.equal(first.layers[0].qkv.up_KO, second.layers[0].qkv.up_KO)


def test_a_sync_takes_the_adapters_as_they_are_now(make_policy):
    policy = with_lora(make_policy("qwen2"))
    engine = engine_of(policy)
    before = engine.generate(PROMPTS, Sampling(temperature=0, max_tokens=8))
    change(policy, size=1.0, seed=5)
    assert engine.generate(PROMPTS, Sampling(temperature=0, max_tokens=8)) == before
    engine.sync(policy)
    assert engine.generate(PROMPTS, Sampling(temperature=0, max_tokens=8)) != before


def test_a_sync_without_adapters_rounds_all_weights_anew(make_policy):
    """Full fine-tuning: an engine that kept its base would draw from the policy of the first step."""
    policy = make_policy("qwen3_tied")
    engine = engine_of(policy)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    with pytest.raises(RuntimeError, match="rounded base comes from other weights"):
        engine._decoder.verify(policy)
    engine.sync(policy)
    differences = [
        torch.tensor(completion.logprobs) - expected
        for group in engine.generate(PROMPTS, Sampling(n=4, max_tokens=20, seed=1))
        for completion, expected in zip(group.completions, policy_logprobs(policy, group), strict=True)
    ]
    assert 0 < torch.cat(differences).abs().mean() < 0.15


def previous_adapters(engine, policy):
    """The optimiser has taken a step since the sync."""
    optimizer = torch.optim.SGD([p for p in policy.model.parameters() if p.requires_grad], lr=1e-4)
    policy.model(input_ids=torch.arange(2, 12)[None]).logits.square().mean().backward()
    optimizer.step()


def other_base(engine, policy):
    policy.model.base_model.model.model.layers[1].input_layernorm.weight.data[0] += 1e-3


def layers_exchanged(engine, policy):
    weights = engine._decoder._fused.weights
    one, other, *others = weights.layers
    engine._decoder._fused.use(replace(weights, layers=(other, one, *others)))


def bases_exchanged(engine, policy):
    """Two layers under the right adapters, which say nothing about it."""
    weights = engine._decoder._fused.weights
    one, other, *others = weights.layers
    swapped = tuple(
        replace(mine, **{
            name: replace(getattr(mine, name), below=getattr(its, name).below)
            for name in ("qkv", "out", "gate_up", "down")
        })
        for mine, its in ((one, other), (other, one))
    )  # fmt: skip
    engine._decoder._fused.use(replace(weights, layers=(*swapped, *others)))


def missing_head(engine, policy):
    """An output layer that was never filled."""
    weights = engine._decoder._fused.weights
    vocabulary, width = weights.embedding_VE.shape
    engine._decoder._fused.use(replace(weights, head=Rounded(torch.zeros(width, vocabulary), None)))


def other_embedding(engine, policy):
    weights = engine._decoder._fused.weights
    engine._decoder._fused.use(replace(weights, embedding_VE=weights.embedding_VE.roll(1, 0)))


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (previous_adapters, "adapters are not the policy's"),
        (other_base, "comes from other weights"),
        (layers_exchanged, "adapters are not the policy's"),
        (bases_exchanged, "layer 0 of the engine is off by"),
        (missing_head, "the output layer of the engine is off by 1 of its effect"),
        (other_embedding, "the embedding of the engine is off by"),
    ],
)
def test_wrong_weights_are_refused(make_policy, family, fault, message):
    policy = with_lora(make_policy(family))
    engine = engine_of(policy)
    engine.verify(policy)
    fault(engine, policy)
    with pytest.raises(RuntimeError, match=message):
        engine.verify(policy)


@pytest.mark.parametrize("lora", [False, True])
def test_a_sync_that_leaves_the_previous_weights_in_place_is_refused(make_policy, monkeypatch, lora):
    policy = with_lora(make_policy("qwen2")) if lora else make_policy("qwen2").copy()
    engine = engine_of(policy)
    monkeypatch.setattr(engine._decoder._fused, "use", lambda weights: None)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.mul_(1.5)
    with pytest.raises(RuntimeError, match="stale" if lora else r"(layer 0|embedding) of the engine is off"):
        engine.sync(policy)


def test_what_int8_cannot_do_is_refused_in_one_line(make_policy):
    with pytest.raises(ValueError, match="int8 cannot run this model: architecture gpt2"):
        engine_of(make_policy("gpt2"))
    with pytest.raises(ValueError, match="int8 rollouts are computed on CPUs, this engine draws on meta"):
        engine_of(make_policy("qwen3"), device="meta")
    with pytest.raises(ValueError, match="int8 needs the fused decoder"):
        EmbeddedEngine(**{**SETTINGS, "decoder": "generic"})
    on_embedding = with_lora(make_policy("qwen3"), spec=replace(ADAPTERS, target_modules=("embed_tokens",)))
    with pytest.raises(ValueError, match="embed_tokens"):
        engine_of(on_embedding)
    policy = make_policy("llama").copy()
    policy.model.model.layers[0].mlp.up_proj.weight.data[0, 0] = torch.nan
    with pytest.raises(ValueError, match="no numbers cannot be rounded"):
        engine_of(policy)


@pytest.mark.parametrize(("rounded", "dtype"), [(1.0, "int8"), (3.0, None)])
def test_auto_keeps_what_was_faster_for_the_run(make_policy, monkeypatch, tmp_path, rounded, dtype):
    """Seconds of a layer and of the output layer, first as they are: 2 and 5, of three layers 11; then rounded."""
    policy, kept = make_policy("qwen2"), tmp_path / "engine.json"
    taken = iter([2.0, 5.0, rounded, 5.0])
    monkeypatch.setattr("rzero.engines.embedded.choice.best_seconds", lambda work: (work(), next(taken))[1])
    engine = engine_of(policy, dtype="auto", kept=str(kept), max_rows=7, threads=2)
    assert isinstance(engine._decoder, RoundedDecoder) == (dtype == "int8")
    assert json.loads(kept.read_text()) == {
        "dtype": dtype, "rows": 7, "threads": 2, "seconds": 11.0, "int8_seconds": 3 * rounded + 5.0, "reason": "",
    }  # fmt: skip
    again = engine_of(policy, dtype="auto", kept=str(kept))  # a resumed run, or the other role: nothing is timed
    assert isinstance(again._decoder, RoundedDecoder) == (dtype == "int8")
    assert [path.name for path in tmp_path.iterdir()] == ["engine.json"]
    kept.write_text("{}")
    with pytest.raises(ValueError, match=r"engine\.json does not say which dtype this run draws in"):
        engine_of(policy, dtype="auto", kept=str(kept))


def test_auto_stays_with_the_policys_dtype_where_int8_cannot_be(make_policy, tmp_path):
    kept = tmp_path / "engine.json"
    engine = engine_of(make_policy("gpt2"), dtype="auto", kept=str(kept))
    assert engine.generate(PROMPTS, Sampling(max_tokens=2))
    assert "architecture gpt2" in json.loads(kept.read_text())["reason"]
    with pytest.raises(ValueError, match="choose engine=embedded_auto"):
        EmbeddedEngine(**{**SETTINGS, "dtype": "auto"})


def test_a_machine_whose_products_saturate_is_refused(make_policy, monkeypatch):
    assert exact_products()
    monkeypatch.setattr("rzero.engines.embedded.rounded.exact_products", lambda: False)
    with pytest.raises(ValueError, match="int8 cannot run this model: this machine's int8 products are not exact"):
        engine_of(make_policy("qwen3"))


def test_a_rounded_product_by_hand():
    """Columns scaled to 127 steps each, the row to 127 of its own: x = [1, -0.5], w = [[0.5, 2], [0.25, -2]]."""
    x_WI, weight_IO = torch.tensor([[1.0, -0.5]]), torch.tensor([[0.5, 2.0], [0.25, -2.0]])
    # Row: scale 1/127, steps [127, -64]. Columns: scales 0.5/127 and 2/127, steps [127, 64] and [127, -127].
    first = (127 * 127 - 64 * 64) * (1 / 127) * (0.5 / 127)
    second = (127 * 127 + 64 * 127) * (1 / 127) * (2 / 127)
    assert torch.allclose(Rounded(weight_IO, None)(x_WI), torch.tensor([[first, second]]), rtol=1e-6)
    bias_O = torch.tensor([10.0, 20.0])
    assert torch.allclose(Rounded(weight_IO, bias_O)(x_WI), torch.tensor([[first, second]]) + bias_O, rtol=1e-6)
    assert torch.equal(Rounded(weight_IO, None)(torch.zeros(1, 2)), torch.zeros(1, 2))


def test_sums_are_exact_where_a_narrow_accumulator_would_overflow():
    weight_IO, x_WI = torch.ones(4096, 8), torch.ones(3, 4096)
    assert torch.allclose(Rounded(weight_IO, None)(x_WI), Dense(weight_IO, None)(x_WI))


@pytest.mark.parametrize("shape", [(1, 64, 33), (3, 4864, 40), (64, 896, 17000)])
def test_unsigned_activations_make_the_same_sums_to_the_bit(monkeypatch, shape):
    if not linear._unsigned_is_faster():
        pytest.skip("this machine draws with signed activations: unsigned ones gain nothing, or saturate")
    rows, width, out = shape
    layer, x_WI = Rounded(torch.randn(width, out), torch.randn(out)), torch.randn(rows, width)
    answers = []
    for unsigned in (False, True):
        monkeypatch.setattr(linear, "_unsigned_is_faster", lambda unsigned=unsigned: unsigned)
        answers.append(
            layer(x_WI[:2]).clone()
        )  # few rows: a machine may have only a reference kernel for one of the two
    assert torch.equal(*answers)
    assert answers[0].abs().sum() > 0


def test_unsigned_activations_that_make_other_sums_are_not_taken(monkeypatch):
    monkeypatch.setattr(linear, "_shifted", lambda rounded_WI: rounded_WI.view(torch.uint8).zero_())
    monkeypatch.setattr(linear, "_REFERENCE", 0)  # else the machine's speed would decide
    assert linear._unsigned_is_faster.__wrapped__() is False


def test_the_kernel_in_use_is_no_reference_kernel():
    """A product with rounded weights takes less than ten times as long as one with float32 weights."""
    if "avx512_vnni" not in _facts().get("flags", ""):
        pytest.skip("this machine has no AVX-512 VNNI, for which int8 products are worth their while")
    weight_IO, x_WI = torch.randn(512, 1024), torch.randn(16, 512)
    rounded, dense = Rounded(weight_IO, None), Dense(weight_IO, None)
    with torch_threads(1):
        assert best_seconds(lambda: rounded(x_WI)) < 10 * best_seconds(lambda: dense(x_WI))


@pytest.mark.parametrize("refill", [False, True])
def test_a_wide_vocabulary_whose_product_writes_over_the_one_before(make_policy, monkeypatch, refill):
    """Prompts are read in parts, rows join others, weights are synced and drawn from again."""
    policy = with_lora(make_policy("qwen2"))
    prompts = [Prompt(user=f"{number} + {number * number} =") for number in range(12)]
    sampling = Sampling(n=2, temperature=0, max_tokens=12)
    expected = engine_of(policy, prefill_tokens=4096).generate(prompts, sampling)
    monkeypatch.setattr(linear, "_WIDE", 64)
    monkeypatch.setattr(linear, "_COLUMNS", 32)
    engine = engine_of(policy, max_rows=9 if refill else 64, prefill_tokens=64, refill=refill)
    for _ in range(2):
        for one, other in zip(expected, engine.generate(prompts, sampling), strict=True):
            for wanted, drawn in zip(one.completions, other.completions, strict=True):
                assert drawn.token_ids == wanted.token_ids
                assert drawn.logprobs == pytest.approx(wanted.logprobs, abs=1e-4)
        engine.sync(policy)  # what was made while drawing is written to here, outside of inference mode
        engine.verify(policy)


def test_weights_that_are_not_read_while_drawing_leave_memory(make_policy, monkeypatch):
    gone = []
    monkeypatch.setattr("rzero.engines.embedded.engine.let_go_of_files", lambda tensors: gone.extend(tensors))
    policy = with_lora(make_policy("qwen2"))
    engine_of(policy, dtype=None).generate(PROMPTS, Sampling(n=1, max_tokens=2, seed=1))
    assert not gone, "a float32 engine may have taken them as they are"
    engine_of(policy).generate(PROMPTS, Sampling(n=1, max_tokens=2, seed=1))
    assert {tensor.data_ptr() for tensor in gone} == {parameter.data_ptr() for parameter in policy.model.parameters()}


@pytest.mark.parametrize("dtype", [None, "int8"])
def test_an_engine_keeps_no_policy_in_memory(make_policy, dtype):
    policy = with_lora(make_policy("qwen2"))
    engine = engine_of(policy, dtype=dtype)
    before = engine.generate(PROMPTS, Sampling(max_tokens=4))
    weight = weakref.ref(policy.model.get_base_model().model.layers[0].mlp.up_proj.base_layer.weight)
    del policy
    gc.collect()
    assert weight() is None
    assert engine.generate(PROMPTS, Sampling(max_tokens=4)) == before


@pytest.mark.parametrize("dtype", [None, "int8"])
def test_an_engine_keeps_no_file_of_weights_mapped(make_policy, tmp_path, dtype):
    """All tensors of a file are one mapping, so that whoever keeps one of them keeps all of it resident."""
    make_policy("qwen3_tied").save(tmp_path)
    policy = load_policy(tmp_path, dtype="float32", attn_implementation="sdpa", lora=ADAPTERS)
    engine = engine_of(policy, dtype=dtype)
    maps, weights = Path("/proc/self/maps"), str(tmp_path / "model.safetensors")
    if not maps.exists() or weights not in maps.read_text():
        pytest.skip("weights are not mapped here, or the system does not list mappings")
    del policy
    gc.collect()
    assert weights not in maps.read_text()
    engine.generate(PROMPTS, Sampling(max_tokens=4))
