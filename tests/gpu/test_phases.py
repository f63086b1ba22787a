"""A phase of either role on a GPU, against the same phase on the CPU in float32."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from rzero.gathering import merged_weights
from rzero.modules import checkpoint
from rzero.modules.fit import fit
from rzero.policy import Policy, load_policy
from rzero.processes.launch import RankConfig
from rzero.processes.ranks import Ranks
from rzero.tracking import is_timing
from tests.rzero.processes.two_processes import (
    LORA,
    load,
    make_engine,
    make_module,
    make_trainer,
    near_float32,
    settings,
    strategy_of,
)

CPU = torch.device("cpu")
ROLES = ("challenger", "solver")


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """metrics: of its two steps. policy: what it learned. optimizer: as it was after the last step."""

    metrics: list[dict[str, float]]
    policy: Policy
    checkpoint: Path


def train(
    base: Path, folder: Path, *, role: str, device: torch.device, precision: str = "32-true", tuning: str = "full",
    strategy: str = "one", **changes: Any,
) -> Phase:  # fmt: skip
    """Two steps of a phase, with a checkpoint after the first. Full fine-tuning is checkpointed in memory too."""
    rounded = device.type == "cuda" and tuning == "lora"
    policy = load_policy(
        base, dtype="bfloat16" if rounded else "float32", attn_implementation="sdpa",
        lora=LORA if tuning == "lora" else None, gradient_checkpointing=tuning == "full",
    )  # fmt: skip
    engine = make_engine(Ranks(), device=str(device))
    module = make_module(policy, role=role, ranks=Ranks(), engine=engine, settings=settings(**changes))
    steps: list[dict[str, float]] = []
    paused = folder / "paused"

    def after_step(metrics: Mapping[str, float]) -> None:
        steps.append({name: value for name, value in metrics.items() if not is_timing(name)})
        if len(steps) == 1:
            optimizer = module.optimizers(use_pl_optimizer=False)
            checkpoint.save(paused, model=module.model, optimizer=optimizer, write=True)

    trainer = functools.partial(
        make_trainer, accelerator="gpu" if device.type == "cuda" else "cpu", precision=precision,
        **strategy_of(strategy, size=1),
    )  # fmt: skip
    fit(module, make_trainer=trainer, after_step=after_step, directory=folder)
    return Phase(metrics=steps, policy=policy, checkpoint=paused)


def weights(policy: Policy) -> dict[str, torch.Tensor]:
    return {name: tensor.cpu() for name, tensor in merged_weights(policy.model).items()}


def same(one: Phase, other: Phase, *, atol: float) -> None:
    """Metrics of both steps and weights after them, which move by more than 1e-2."""
    for ours, theirs in zip(one.metrics, other.metrics, strict=True):
        assert ours == pytest.approx(theirs, rel=10 * atol, abs=atol)
    theirs = weights(other.policy)
    for name, tensor in weights(one.policy).items():
        torch.testing.assert_close(tensor, theirs[name], atol=atol, rtol=0)


@pytest.mark.parametrize("role", ROLES)
def test_float32_steps_have_the_values_of_the_cpu(role: str, device: torch.device, base: Path, tmp_path: Path) -> None:
    """On the CPU itself: with shared prompts those of padded rows."""
    expected = train(base, tmp_path / "here", role=role, device=CPU)
    same(train(base, tmp_path / "there", role=role, device=device, share_prompts=True), expected, atol=1e-3)
    assert all(step[f"{role}/grad_norm"] > 0 for step in expected.metrics)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_bf16_mixed_steps_are_near_float32(
    role: str, tuning: str, device: torch.device, base: Path, tmp_path: Path
) -> None:
    """The rollout of the first step is the same; what is learned from it differs by what bf16 rounds.

    On a GPU adapters lie over weights in bf16, as in the preset: then the rollout is another one.
    """
    if tuning == "lora":
        pytest.importorskip("peft", reason="LoRA needs peft, which is not installed")
    one = {"role": role, "tuning": tuning, "updates_per_rollout": 1}
    first, second = train(base, tmp_path / "there", device=device, precision="bf16-mixed", **one).metrics
    assert second[f"{role}/kl"] > 0
    if tuning == "lora" and device.type == "cuda":
        assert first[f"{role}/grad_norm"] > 0
        return
    expected, _ = train(base, tmp_path / "here", device=CPU, **one).metrics
    near_float32(first, expected, role=role)


@pytest.mark.parametrize("role", ROLES)
def test_fsdp2_on_one_device_changes_nothing(role: str, device: torch.device, base: Path, tmp_path: Path) -> None:
    expected = train(base, tmp_path / "alone", role=role, device=device)
    rank = RankConfig(rank=0, size=1, rendezvous=str(tmp_path / "meeting"), cuda=device.type == "cuda")
    with rank.join():
        same(train(base, tmp_path / "split", role=role, device=device, strategy="fsdp"), expected, atol=1e-5)


def test_weights_and_checkpoints_come_back_as_they_were(device: torch.device, base: Path, tmp_path: Path) -> None:
    policy = load(base, tuning="full")
    policy.model.to(device)
    optimizer = torch.optim.AdamW(policy.model.parameters(), lr=1e-3)
    for parameter in policy.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    policy.save(tmp_path / "saved")
    saved = load_policy(tmp_path / "saved", dtype="float32", attn_implementation="sdpa")
    assert saved.weights_hash() == policy.weights_hash()
    checkpoint.save(tmp_path / "paused", model=policy.model, optimizer=optimizer, write=True)
    again = load(base, tuning="full")
    checkpoint.load_weights(tmp_path / "paused", again.model)
    assert again.weights_hash() == policy.weights_hash()
    again.model.to(device)
    restored = torch.optim.AdamW(again.model.parameters(), lr=1e-3)
    checkpoint.load_optimizer(tmp_path / "paused", restored)
    for ours, theirs in zip(restored.state.values(), optimizer.state.values(), strict=True):
        assert ours["exp_avg"].device.type == device.type
        assert torch.equal(ours["exp_avg"], theirs["exp_avg"])
