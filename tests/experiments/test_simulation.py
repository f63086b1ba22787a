"""Memory by simulation: bytes worked out by hand, and the extrapolation against the real depth."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from experiments.compose import compose
from experiments.plan import plan
from experiments.planning import simulation
from experiments.planning.fake_tensors import fake_device, put_on_fake_device
from experiments.planning.simulation import Case, run, simulated_peaks
from rzero import gathering
from rzero.modules import checkpoint
from rzero.sharding import shard
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


def test_a_checkpoint_at_the_shape_of_qwen3_4b_is_held_one_file_at_a_time(monkeypatch, tmp_path) -> None:
    """Of eight ranks one holds a file, the others a tensor on their device, where each held weights and moments.

    A third of the layers: the peak is that of the embedding however many there are.
    """
    cfg = compose("experiment=paper", "policy=qwen3_4b_base")
    shape: Any = OmegaConf.to_container(cfg.policy.architecture)
    peaks, files = {}, []
    monkeypatch.setattr(gathering, "save_file", lambda tensors, *_, **__: files.append(sum(_size(tensors))))
    monkeypatch.setattr(gathering, "require_space", lambda *_, **__: None)
    with simulation._fake_group(8) as mesh, fake_device() as counter:
        model = simulation._model({**case().policy, "architecture": shape}, layers=12, keep_adapters=False)
        put_on_fake_device(model)
        shard(model, mesh)
        optimizer = torch.optim.AdamW(model.parameters())
        for parameter in model.parameters():
            optimizer.state[parameter] = {key: torch.zeros_like(parameter) for key in ("exp_avg", "exp_avg_sq")}
        for write in (True, False):
            counter.at(f"write={write}")
            before = counter.now
            checkpoint.save(tmp_path / "checkpoint", model=model, optimizer=optimizer, write=write)
            peaks[write] = counter.peaks[f"write={write}"] - before
            assert counter.now == before
        whole = 3 * sum(4 * parameter.numel() for parameter in model.parameters())
    assert sum(files) == pytest.approx(whole, rel=1e-6)
    embedding = 4 * shape["vocab_size"] * shape["hidden_size"]
    assert whole > 3 * gathering.FILE_BYTES
    assert max(files) <= gathering.FILE_BYTES
    assert peaks[True] <= gathering.FILE_BYTES + embedding
    assert peaks[False] <= 2.01 * embedding  # what was gathered, and its parts in one piece


def _size(tensors: dict[str, torch.Tensor]) -> list[int]:
    return [tensor.nbytes for tensor in tensors.values()]


def _real(of: Case) -> torch.nn.Module:
    from transformers import AutoConfig, AutoModelForCausalLM

    return AutoModelForCausalLM.from_config(AutoConfig.for_model(**of.policy["architecture"]))


@pytest.mark.slow
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
