"""A learning rate that rises over the first steps of a phase."""

from __future__ import annotations

from typing import Any

import torch

_TAKEN, _PEAK = "steps_taken", "peak_lr"
"""Kept in the parameter groups, and so in every checkpoint of the optimiser: a resumed phase goes on from there."""


def warm_up(optimizer: torch.optim.Optimizer, *, steps: int) -> None:
    """Take step n = 1, 2, ... of `optimizer` at min(1, n / steps) of its learning rate.

    The first step of Adam moves each weight by the whole rate whatever its gradient, since both moments are those of
    one sample; where a phase has few steps, that noise is a large part of all it learns.
    """
    for group in optimizer.param_groups:
        group.setdefault(_TAKEN, 0)
        group.setdefault(_PEAK, group["lr"])

    def set_rate(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        for group in optimizer.param_groups:
            group[_TAKEN] += 1
            group["lr"] = group[_PEAK] * min(1.0, group[_TAKEN] / steps)

    optimizer.register_step_pre_hook(set_rate)
