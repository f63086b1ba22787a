"""Memory by simulation: bytes worked out by hand, and the extrapolation against the real depth."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hydra.utils import instantiate

from experiments.compose import compose
from experiments.plan import plan
from experiments.planning.fake_tensors import fake_device
from experiments.planning.simulation import Case, run, simulated_peaks
from rzero.types import Json

SHAPE: Json = {
    "model_type": "qwen3", "hidden_size": 32, "num_hidden_layers": 6, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "intermediate_size": 64, "vocab_size": 160, "tie_word_embeddings": True,
}  # fmt: skip
LORA: Json = {"rank": 2, "alpha": 4, "dropout": 0.0, "target_modules": ["q_proj", "down_proj"]}


def case(*, devices: int = 4, tied: bool = True, **policy: Any) -> Case:
    cfg = compose("experiment=micro")
    settings = instantiate(
        cfg.solver.settings, _convert_="all", max_tokens_per_microbatch=128, chunk_tokens=16, share_prompts=False
    )
    return Case(
        policy={
            "architecture": {**SHAPE, "tie_word_embeddings": tied}, "dtype": "float32", "attn_implementation": "sdpa",
            "gradient_checkpointing": True, "lora": None, **policy,
        },
        devices=devices,
        mixed=True,
        settings=settings,
        loss=instantiate(cfg.solver.loss),
        optimizer=instantiate(cfg.solver.optimizer, lr=1e-3),
        prompt=8,
        length=32,
    )  # fmt: skip


def test_bytes_are_counted_while_they_are_there() -> None:
    with fake_device() as counter:
        counter.at("first")
        kept = torch.zeros(256)
        view = kept[:10]
        assert counter.now == 1024
        doubled = kept * 2
        assert counter.now == 2048
        del doubled
        assert counter.now == 1024
        counter.at("second")
        torch.empty(512, dtype=torch.bfloat16)
        kept.untyped_storage().resize_(0)
        assert counter.now == 0
        kept.untyped_storage().resize_(1024)
        assert counter.now == 1024
        del kept, view
        assert counter.now == 0
    assert counter.peaks == {"first": 2048, "second": 2048}


def test_whole_numbers_and_masks_are_real_and_fake_numbers_can_be_read() -> None:
    with fake_device() as counter:
        ids, mask = torch.arange(6), torch.arange(6) > 3
        assert ids[mask].tolist() == [4, 5]
        assert counter.now == 0
        values = torch.ones(6)
        assert values[mask].shape == (2,)
        assert float(values.sum()) == 1.0
        assert not bool(values.any())


@pytest.mark.parametrize("tied", [True, False])
def test_the_optimisers_step_by_hand(tied: bool) -> None:
    """In its step a rank holds weights, two moments and gradients of its quarter; the reference needs no more."""
    whole = case(tied=tied)
    weights = sum(p.numel() for p in _real(whole).parameters())
    peaks = run(whole, layers=6)
    needed = (4 + 8 + 4) * weights / 4
    assert needed <= peaks["update: optimiser"] <= 1.5 * needed + 4 * weights / 4
    table = 4 * 160 * 32
    held = (4 + 8) * weights / 4
    assert held < peaks["sync"] <= held + 4 * weights / 4 + 3 * table  # one weight at a time is whole


def _real(of: Case) -> torch.nn.Module:
    from transformers import AutoConfig, AutoModelForCausalLM

    return AutoModelForCausalLM.from_config(AutoConfig.for_model(**of.policy["architecture"]))


@pytest.mark.parametrize(
    "chosen",
    [
        case(),
        case(tied=False),
        case(devices=1),
        case(devices=1, lora=LORA, dtype="bfloat16"),
    ],
    ids=["tied", "untied", "one device", "adapters"],
)
def test_a_deep_model_is_extrapolated_exactly(chosen: Case) -> None:
    deep, extrapolated = run(chosen, layers=8), simulated_peaks(chosen, layers=8)
    assert max(extrapolated.values()) == pytest.approx(max(deep.values()), rel=1e-3)


def test_what_cannot_be_simulated_is_refused() -> None:
    with pytest.raises(ValueError, match="not DDP"):
        plan(["experiment=paper", "trainer=ddp"], simulate=True)
    with pytest.raises(ValueError, match="needs the policy's `architecture`"):
        plan(["experiment=micro"], simulate=True)
