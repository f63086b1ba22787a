"""The learning rate of the first steps; in a module: test_modules.py, over a checkpoint: test_checkpoint.py."""

from __future__ import annotations

import pytest
import torch

from rzero.modules.warmup import warm_up


def test_the_rate_rises_in_equal_steps_and_stays() -> None:
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(2))], lr=0.8)
    warm_up(optimizer, steps=4)
    rates = []
    for _ in range(6):
        optimizer.step()
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8, 0.8])
