"""From rewards to advantages (GRPO, arXiv 2402.03300 section 4.1.2; R-Zero section 3).

Shapes: B completions of one rollout, in any order; G groups (completions of one prompt).
"""
# ruff: noqa: N815 - a record's fields carry the shape suffix too

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Scaling = Literal["group", "batch", "none"]
Baseline = Literal["mean", "leave_one_out"]

EQUAL_WITHIN = 1e-6  # rewards are sums of a few terms near 1; what differs by less differs by rounding


def group_advantages(
    rewards_B: Tensor,
    group_B: Tensor,
    *,
    scaling: Scaling = "group",
    baseline: Baseline = "mean",
    eps: float = 1e-6,
    equal_within: float = EQUAL_WITHIN,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """A = (r - baseline) / (scale + eps), one number per completion, in `dtype` (computed in float64).

    `group_B` names each completion's group with any integer; members need not be neighbours.
    `baseline`: the group's mean, or the mean of the *other* members (leave-one-out, arXiv 2402.14740).
    `scaling`: the unbiased standard deviation of the group (GRPO) or of the whole batch, or
    none (Dr. GRPO, arXiv 2503.20783).

    A group of equal rewards gets exactly 0, because rounding, divided by eps, otherwise pushes an all-correct group
    down (eight float32 rewards of 0.9 give -0.056). Equal means: no further apart than `equal_within` times the largest
    absolute reward of the group, at least `equal_within` itself; 0 asks for the very same number. A reward that is not
    finite takes no part in baseline or scale and its advantage is 0, as is that of a group's only finite reward.
    """
    _check(rewards_B, group_B, scaling=scaling, baseline=baseline)
    rewards = rewards_B.detach().to(torch.float64)
    groups = _groups(rewards, group_B, equal_within=equal_within)
    finite_B, index_B = groups.finite_B, groups.index_B

    centred_B = torch.where(finite_B, rewards, 0.0) - groups.mean_G[index_B]
    informative_B = finite_B & ~groups.equal_G[index_B]
    centred_B = torch.where(informative_B, centred_B, 0.0)
    count_B = groups.count_G[index_B]
    if baseline == "leave_one_out":  # r_i - mean of the others = n / (n - 1) * (r_i - mean)
        centred_B = centred_B * count_B / (count_B - 1).clamp(min=1)
    if scaling == "none":
        return centred_B.to(dtype)
    if scaling == "batch":
        finite = rewards[finite_B]
        scale: Tensor = finite.std() if finite.numel() > 1 else finite.new_zeros(())
    else:
        squares_G = torch.zeros_like(groups.mean_G).index_add_(
            0, index_B, torch.where(informative_B, rewards - groups.mean_G[index_B], 0.0).square()
        )
        scale = (squares_G / (groups.count_G - 1).clamp(min=1)).sqrt()[index_B]
    return torch.where(informative_B, centred_B / (scale + eps), 0.0).to(dtype)  # eps may be 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardStatistics:
    """What to log about one rollout's rewards. Mean and standard deviation are over finite rewards.

    `group_std` is the mean over groups of the unbiased standard deviation; `equal_fraction` the share of groups that
    teach nothing because their rewards are equal; `non_finite` how many rewards were left out.
    """

    mean: float
    std: float
    group_std: float
    equal_fraction: float
    non_finite: int


def reward_statistics(rewards_B: Tensor, group_B: Tensor, *, equal_within: float = EQUAL_WITHIN) -> RewardStatistics:
    """Summary of the same rewards and groups that `group_advantages` sees, under the same notion of equal."""
    _check(rewards_B, group_B, scaling="group", baseline="mean")
    rewards = rewards_B.detach().to(torch.float64)
    groups = _groups(rewards, group_B, equal_within=equal_within)
    finite = rewards[groups.finite_B]
    deviation_B = torch.where(groups.finite_B, rewards - groups.mean_G[groups.index_B], 0.0)
    squares_G = torch.zeros_like(groups.mean_G).index_add_(0, groups.index_B, deviation_B.square())
    std_G = torch.where(groups.equal_G, 0.0, (squares_G / (groups.count_G - 1).clamp(min=1)).sqrt())
    return RewardStatistics(
        mean=float(finite.mean()) if finite.numel() else 0.0,
        std=float(finite.std()) if finite.numel() > 1 else 0.0,
        group_std=float(std_G.mean()),
        equal_fraction=float(groups.equal_G.double().mean()),
        non_finite=int((~groups.finite_B).sum()),
    )


def soft_overlong_penalty(lengths_B: Tensor, *, max_tokens: int, buffer_tokens: int) -> Tensor:
    """DAPO's length penalty in [-1, 0], to be added to the reward (arXiv 2503.14476 equation 13).

    0 up to `max_tokens - buffer_tokens` tokens, then linear down to -1 at `max_tokens`, -1 beyond.
    """
    if not 0 < buffer_tokens <= max_tokens:
        raise ValueError(f"buffer_tokens must lie in 1..max_tokens ({max_tokens}), got {buffer_tokens}")
    overshoot_B = lengths_B.to(torch.float32) - (max_tokens - buffer_tokens)
    return -(overshoot_B / buffer_tokens).clamp(0.0, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Groups:
    """Per-group facts about finite rewards. `index_B` maps a completion to its group."""

    index_B: Tensor
    finite_B: Tensor
    count_G: Tensor
    mean_G: Tensor
    equal_G: Tensor  # True also where fewer than two rewards are finite: there is nothing to compare with


def _groups(rewards_B: Tensor, group_B: Tensor, *, equal_within: float) -> _Groups:
    if not equal_within >= 0:
        raise ValueError(f"advantage.equal_within must be 0 or positive, got {equal_within}; 1e-6 is above rounding")
    names_G, index_B = torch.unique(group_B.to(rewards_B.device), return_inverse=True)
    finite_B = rewards_B.isfinite()
    size = names_G.numel()
    zeros_G = rewards_B.new_zeros(size)
    count_G = zeros_G.index_add(0, index_B, finite_B.to(rewards_B.dtype))
    sum_G = zeros_G.index_add(0, index_B, torch.where(finite_B, rewards_B, 0.0))
    high_G = torch.full_like(zeros_G, -torch.inf).scatter_reduce(
        0, index_B, torch.where(finite_B, rewards_B, -torch.inf), reduce="amax"
    )
    low_G = torch.full_like(zeros_G, torch.inf).scatter_reduce(
        0, index_B, torch.where(finite_B, rewards_B, torch.inf), reduce="amin"
    )
    # a group without a finite reward has high - low = -inf; its largest must not become 0 x inf
    largest_G = torch.maximum(high_G.abs(), low_G.abs()).clamp(1.0, torch.finfo(high_G.dtype).max)
    return _Groups(
        index_B=index_B,
        finite_B=finite_B,
        count_G=count_G,
        mean_G=sum_G / count_G.clamp(min=1),
        equal_G=(high_G - low_G <= equal_within * largest_G),
    )


def _check(rewards_B: Tensor, group_B: Tensor, *, scaling: str, baseline: str) -> None:
    if rewards_B.ndim != 1 or rewards_B.shape != group_B.shape or not rewards_B.numel():
        raise ValueError(
            f"rewards and groups must be equally long non-empty vectors, got {tuple(rewards_B.shape)} "
            f"and {tuple(group_B.shape)}"
        )
    if scaling not in ("group", "batch", "none"):
        raise ValueError(f"advantage.scaling must be group, batch or none, got {scaling!r}")
    if baseline not in ("mean", "leave_one_out"):
        raise ValueError(f"advantage.baseline must be mean or leave_one_out, got {baseline!r}")
