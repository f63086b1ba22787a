"""Metrics of a step, under the names the field uses."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch

from rzero.grpo import reward_statistics
from rzero.types import Group, RewardBreakdown

SUMS = ("loss", "policy_loss")
"""Metrics that stay the sum over a step's micro-batches; every other metric of the loss is a mean over tokens."""


def rollout_metrics(groups: Sequence[Group], rewards: Sequence[Sequence[RewardBreakdown]]) -> dict[str, float]:
    """Returns metrics of a rollout: rewards, lengths (tokens), truncation."""
    totals_N = torch.tensor([reward.total for group in rewards for reward in group], dtype=torch.float64)
    group_N = torch.tensor([index for index, group in enumerate(groups) for _ in group.completions])
    statistics = reward_statistics(totals_N, group_N)
    lengths = [len(c.token_ids) for group in groups for c in group.completions]
    ended = [len(c.token_ids) for group in groups for c in group.completions if c.finish_reason == "stop"]
    metrics = {
        "reward": statistics.mean,
        "reward_std": statistics.std,
        "group_reward_std": statistics.group_std,
        "frac_reward_zero_std": statistics.equal_fraction,
        "non_finite_rewards": float(statistics.non_finite),
        "completions/mean_length": sum(lengths) / len(lengths),
        "completions/min_length": float(min(lengths)),
        "completions/max_length": float(max(lengths)),
        "completions/mean_terminated_length": sum(ended) / len(ended) if ended else 0.0,
        "completions/clipped_ratio": (len(lengths) - len(ended)) / len(lengths),
        "num_tokens": float(sum(lengths)),
    }
    flat = [reward for group in rewards for reward in group]
    for name in sorted({name for reward in flat for name in reward.parts}):
        values = [reward.parts[name] for reward in flat if name in reward.parts]
        metrics[f"rewards/{name}/mean"] = sum(values) / len(values)
    return metrics


def update_metrics(sums: Mapping[str, float]) -> dict[str, float]:
    """Metrics of an optimiser step from the sums over micro-batches of `LossOutput.metrics`, `loss` and `weight`."""
    weight = sums["weight"] or 1.0
    means = {name: value if name in SUMS else value / weight for name, value in sums.items() if name != "weight"}
    return {**means, "clip_ratio/region_mean": means["clip_ratio/low_mean"] + means["clip_ratio/high_mean"]}


def add_up(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Sums by name; a name that a part lacks counts as 0 there."""
    sums: dict[str, float] = {}
    for part in parts:
        for name, value in part.items():
            sums[name] = sums.get(name, 0.0) + value
    return sums


def speed(metrics: Mapping[str, float], *, parameters: int) -> dict[str, float]:
    """Completion tokens per second of the whole step, and what the update made of the hardware.

    `perf/update_tflops` counts 6 operations per parameter and token that was learned from (Kaplan et al., 2020), so
    attention, prompts and the passes for old and reference log-probs are left out: it is a lower bound.
    """
    learned = metrics["num_tokens_learned"]
    return {
        "perf/tokens_per_second": metrics["num_tokens"] / metrics["timing_s/step"],
        "perf/update_tflops": 6e-12 * parameters * learned / metrics["timing_s/update"],
    }


@contextmanager
def timed(metrics: dict[str, float], name: str) -> Iterator[None]:
    """Adds the seconds the context lasts to `timing_s/<name>`."""
    started = time.monotonic()
    yield
    key = f"timing_s/{name}"
    metrics[key] = metrics.get(key, 0.0) + time.monotonic() - started
