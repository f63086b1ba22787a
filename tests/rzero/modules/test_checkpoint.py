"""Checkpoints in one process: back bit for bit, in however many files; others are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from rzero import gathering
from rzero.modules import checkpoint
from rzero.modules.warmup import warm_up


def trained(make_policy: Any, *, steps: int, seed: int = 0) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    """A model and its optimiser after some steps that are the same for equal weights."""
    model = make_policy("qwen3_tied", seed=seed).model
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(steps):
        sum(parameter.pow(3).sum() for parameter in model.parameters()).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


@pytest.mark.parametrize("limit", [gathering.FILE_BYTES, 60_000])
def test_what_was_kept_comes_back_bit_for_bit(make_policy, tmp_path: Path, monkeypatch, limit: int) -> None:
    monkeypatch.setattr(gathering, "FILE_BYTES", limit)
    model, optimizer = trained(make_policy, steps=2)
    checkpoint.save(tmp_path / "kept", model=model, optimizer=optimizer, write=True)
    assert (len(list((tmp_path / "kept").glob("moments-*"))) > 2) == (limit == 60_000)
    again, fresh = trained(make_policy, steps=0, seed=1)
    checkpoint.load_weights(tmp_path / "kept", again)
    checkpoint.load_optimizer(tmp_path / "kept", fresh)
    for one, other in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)
        assert optimizer.state[one].keys() == fresh.state[other].keys()
        assert all(torch.equal(value, fresh.state[other][key]) for key, value in optimizer.state[one].items())
    for kept in (tmp_path / "kept").iterdir():  # nothing that was read lies in the files
        kept.write_bytes(b"")
    for both in ((model, optimizer), (again, fresh)):
        sum(parameter.pow(2).sum() for parameter in both[0].parameters()).backward()
        both[1].step()
    assert all(torch.equal(*pair) for pair in zip(model.parameters(), again.parameters(), strict=True))


def test_who_does_not_write_leaves_nothing(make_policy, tmp_path: Path) -> None:
    model, optimizer = trained(make_policy, steps=1)
    checkpoint.save(tmp_path / "kept", model=model, optimizer=optimizer, write=False)
    assert list(tmp_path.iterdir()) == []


def test_checkpoints_of_other_models_and_versions_are_refused(make_policy, tmp_path: Path) -> None:
    model, optimizer = trained(make_policy, steps=1)
    checkpoint.save(tmp_path / "kept", model=model, optimizer=optimizer, write=True)
    with pytest.raises(ValueError, match="checkpoint of another model; remove it"):
        checkpoint.load_weights(tmp_path / "kept", make_policy("qwen3").model)
    (tmp_path / "kept" / "moments.safetensors").unlink()
    with pytest.raises(ValueError, match="checkpoint of an earlier version; remove it"):
        checkpoint.load_weights(tmp_path / "kept", model)


def test_a_phase_that_goes_on_has_the_learning_rate_it_had(make_policy, tmp_path: Path) -> None:
    rates = []
    model, optimizer = trained(make_policy, steps=0)
    warm_up(optimizer, steps=4)
    for _ in range(2):
        optimizer.step()
        rates.append(optimizer.param_groups[0]["lr"])
    checkpoint.save(tmp_path / "kept", model=model, optimizer=optimizer, write=True)
    _, fresh = trained(make_policy, steps=0)
    checkpoint.load_optimizer(tmp_path / "kept", fresh)
    warm_up(fresh, steps=4)
    for _ in range(3):
        fresh.step()
        rates.append(fresh.param_groups[0]["lr"])
    assert rates == pytest.approx([0.0025, 0.005, 0.0075, 0.01, 0.01])
