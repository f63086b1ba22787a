"""The learning rate of the first steps, in a module and over a checkpoint."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch
from test_checkpoint import trained
from test_modules import make, settings, train

from rzero.modules import checkpoint
from rzero.modules.warmup import warm_up


def taken(optimizer: torch.optim.Optimizer, *, steps: int) -> list[float]:
    found = []
    for _ in range(steps):
        optimizer.step()
        found.append(optimizer.param_groups[0]["lr"])
    return found


def test_the_rate_rises_in_equal_steps_and_stays() -> None:
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(2))], lr=0.8)
    warm_up(optimizer, steps=4)
    assert taken(optimizer, steps=6) == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8, 0.8])


def test_a_resumed_phase_goes_on_with_the_rate_it_had(make_policy, tmp_path: Path) -> None:
    model, optimizer = trained(make_policy, steps=0)
    warm_up(optimizer, steps=4)
    first = taken(optimizer, steps=2)
    checkpoint.save(tmp_path / "kept", model=model, optimizer=optimizer, write=True)
    _, fresh = trained(make_policy, steps=0)
    checkpoint.load_optimizer(tmp_path / "kept", fresh)
    warm_up(fresh, steps=4)
    assert first + taken(fresh, steps=3) == pytest.approx([0.0025, 0.005, 0.0075, 0.01, 0.01])


def test_a_module_takes_its_steps_at_that_rate(make_policy, tmp_path: Path) -> None:
    """Two rollouts of one update each; a warm-up of one step is none."""
    rates, weights = {}, {}
    for warmup in (0, 1, 4):
        policy = make_policy("qwen3")
        module = make(
            policy,
            optimizer=functools.partial(torch.optim.SGD, lr=0.1),
            settings=settings(warmup_steps=warmup, updates_per_rollout=1),
        )
        rates[warmup] = [step["learning_rate"] for step in train(module, tmp_path)]
        weights[warmup] = policy.weights_hash()
    assert rates[4] == pytest.approx([0.025, 0.05])
    assert rates[0] == rates[1] == pytest.approx([0.1, 0.1])
    assert weights[0] == weights[1] != weights[4]


def test_less_than_no_step_is_refused() -> None:
    with pytest.raises(ValueError, match="warmup_steps must be 0"):
        settings(warmup_steps=-1)
