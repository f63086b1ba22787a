"""From rewards to advantages (GRPO, arXiv 2402.03300 section 4.1.2; R-Zero section 3).

Shapes: N completions of one rollout, in any order; G groups (completions of one prompt).
"""
# ruff: noqa: N815 - a record's fields carry the shape suffix too

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

Scaling = Literal["group", "batch", "none"]
Baseline = Literal["mean", "leave_one_out"]

EQUAL_WITHIN = 1e-6  # rewards are sums of a few terms near 1; what differs by less differs by rounding


def group_advantages(
    rewards_N: Tensor,
    group_N: Tensor,
    *,
    scaling: Scaling = "group",
    baseline: Baseline = "mean",
    eps: float = 1e-6,
    equal_within: float = EQUAL_WITHIN,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """A = (r - baseline) / (scale + eps), one number per completion, in `dtype` (computed in float64).

    `group_N` names each completion's group with any integer; members need not be neighbours.
    `baseline`: the group's mean, or the mean of the *other* members (leave-one-out, arXiv 2402.14740).
    `scaling`: the unbiased standard deviation of the group (GRPO) or of the whole batch, or
    none (Dr. GRPO, arXiv 2503.20783).

    A group of equal rewards gets exactly 0, because rounding, divided by eps, otherwise pushes an all-correct group
    down (eight float32 rewards of 0.9 give -0.056). Equal means: no further apart than `equal_within` times the largest
    absolute reward of the group, at least `equal_within` itself; 0 asks for the very same number. A reward that is not
    finite takes no part in baseline or scale and its advantage is 0, as is that of a group's only finite reward.
    """
    _check(rewards_N, group_N, scaling=scaling, baseline=baseline)
    rewards = rewards_N.detach().to(torch.float64)
    groups = _groups(rewards, group_N, equal_within=equal_within)
    finite_N, index_N = groups.finite_N, groups.index_N

    centred_N = torch.where(finite_N, rewards, 0.0) - groups.mean_G[index_N]
    informative_N = finite_N & ~groups.equal_G[index_N]
    centred_N = torch.where(informative_N, centred_N, 0.0)
    count_N = groups.count_G[index_N]
    if baseline == "leave_one_out":  # r_i - mean of the others = n / (n - 1) * (r_i - mean)
        centred_N = centred_N * count_N / (count_N - 1).clamp(min=1)
    if scaling == "none":
        return centred_N.to(dtype)
    if scaling == "batch":
        finite = rewards[finite_N]
        scale: Tensor = finite.std() if finite.numel() > 1 else finite.new_zeros(())
    else:
        squares_G = torch.zeros_like(groups.mean_G).index_add_(
            0, index_N, torch.where(informative_N, rewards - groups.mean_G[index_N], 0.0).square()
        )
        scale = (squares_G / (groups.count_G - 1).clamp(min=1)).sqrt()[index_N]
    return torch.where(informative_N, centred_N / (scale + eps), 0.0).to(dtype)  # eps may be 0


def positive_advantages(rewards_N: Tensor, group_N: Tensor, **options: Any) -> Tensor:
    """`group_advantages` where they are positive, else 0: what a group did worse than its mean is not unlearned.

    Compare RAFT and Reinforce-Rej (arXiv 2504.11343). Rewards that say nothing of a completion push in no direction on
    average, as with both signs. With `skip_zero_advantages` the other completions cost no update.
    """
    return group_advantages(rewards_N, group_N, **options).clamp(min=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardStatistics:
    """Returns metrics of one rollout's rewards. Mean and standard deviation are over finite rewards.

    `group_std` is the mean over groups of the unbiased standard deviation; `equal_fraction` the share of groups that
    teach nothing because their rewards are equal; `non_finite` how many rewards were left out.
    """

    mean: float
    std: float
    group_std: float
    equal_fraction: float
    non_finite: int


def reward_statistics(rewards_N: Tensor, group_N: Tensor, *, equal_within: float = EQUAL_WITHIN) -> RewardStatistics:
    """Summary of the same rewards and groups that `group_advantages` sees, under the same notion of equal."""
    _check(rewards_N, group_N, scaling="group", baseline="mean")
    rewards = rewards_N.detach().to(torch.float64)
    groups = _groups(rewards, group_N, equal_within=equal_within)
    finite = rewards[groups.finite_N]
    deviation_N = torch.where(groups.finite_N, rewards - groups.mean_G[groups.index_N], 0.0)
    squares_G = torch.zeros_like(groups.mean_G).index_add_(0, groups.index_N, deviation_N.square())
    std_G = torch.where(groups.equal_G, 0.0, (squares_G / (groups.count_G - 1).clamp(min=1)).sqrt())
    return RewardStatistics(
        mean=float(finite.mean()) if finite.numel() else 0.0,
        std=float(finite.std()) if finite.numel() > 1 else 0.0,
        group_std=float(std_G.mean()),
        equal_fraction=float(groups.equal_G.double().mean()),
        non_finite=int((~groups.finite_N).sum()),
    )


def soft_overlong_penalty(lengths_N: Tensor, *, max_tokens: int, buffer_tokens: int) -> Tensor:
    """DAPO's length penalty in [-1, 0], to be added to the reward (arXiv 2503.14476 equation 13).

    0 up to `max_tokens - buffer_tokens` tokens, then linear down to -1 at `max_tokens`, -1 beyond.
    """
    if not 0 < buffer_tokens <= max_tokens:
        raise ValueError(f"buffer_tokens must lie in 1..max_tokens ({max_tokens}), got {buffer_tokens}")
    overshoot_N = lengths_N.to(torch.float32) - (max_tokens - buffer_tokens)
    return -(overshoot_N / buffer_tokens).clamp(0.0, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Groups:
    """Per-group facts about finite rewards. `index_N` maps a completion to its group."""

    index_N: Tensor
    finite_N: Tensor
    count_G: Tensor
    mean_G: Tensor
    equal_G: Tensor  # True also where fewer than two rewards are finite: there is nothing to compare with


def _groups(rewards_N: Tensor, group_N: Tensor, *, equal_within: float) -> _Groups:
    if not equal_within >= 0:
        raise ValueError(f"advantage.equal_within must be 0 or positive, got {equal_within}; 1e-6 is above rounding")
    names_G, index_N = torch.unique(group_N.to(rewards_N.device), return_inverse=True)
    finite_N = rewards_N.isfinite()
    size = names_G.numel()
    zeros_G = rewards_N.new_zeros(size)
    count_G = zeros_G.index_add(0, index_N, finite_N.to(rewards_N.dtype))
    sum_G = zeros_G.index_add(0, index_N, torch.where(finite_N, rewards_N, 0.0))
    high_G = torch.full_like(zeros_G, -torch.inf).scatter_reduce(
        0, index_N, torch.where(finite_N, rewards_N, -torch.inf), reduce="amax"
    )
    low_G = torch.full_like(zeros_G, torch.inf).scatter_reduce(
        0, index_N, torch.where(finite_N, rewards_N, torch.inf), reduce="amin"
    )
    # a group without a finite reward has high - low = -inf; its largest must not become 0 x inf
    largest_G = torch.maximum(high_G.abs(), low_G.abs()).clamp(1.0, torch.finfo(high_G.dtype).max)
    return _Groups(
        index_N=index_N,
        finite_N=finite_N,
        count_G=count_G,
        mean_G=sum_G / count_G.clamp(min=1),
        equal_G=(high_G - low_G <= equal_within * largest_G),
    )


def _check(rewards_N: Tensor, group_N: Tensor, *, scaling: str, baseline: str) -> None:
    if rewards_N.ndim != 1 or rewards_N.shape != group_N.shape or not rewards_N.numel():
        raise ValueError(
            f"rewards and groups must be equally long non-empty vectors, got {tuple(rewards_N.shape)} "
            f"and {tuple(group_N.shape)}"
        )
    if scaling not in ("group", "batch", "none"):
        raise ValueError(f"advantage.scaling must be group, batch or none, got {scaling!r}")
    if baseline not in ("mean", "leave_one_out"):
        raise ValueError(f"advantage.baseline must be mean or leave_one_out, got {baseline!r}")
