"""Optional parts of a rollout, each one object of the configuration (null: not used)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from rzero.grpo import soft_overlong_penalty
from rzero.types import Group, RewardBreakdown


@dataclass(frozen=True, slots=True, kw_only=True)
class Refill:
    """Dynamic sampling: groups that teach nothing are replaced by others (DAPO, arXiv 2503.14476 section 3.2).

    A group teaches when its highest and lowest finite reward differ by more than `tolerance`. At most `max_rounds`
    extra rollouts are made in a step, each with one prompt per group that is still to be replaced; what is left then
    stays, with advantage 0. The Solver is asked other questions of the phase, the Challenger its one request again. A
    Challenger's repetition penalty then compares the questions of each rollout with one another.
    """

    tolerance: float
    max_rounds: int

    def __post_init__(self) -> None:
        if self.tolerance < 0 or self.max_rounds < 1:
            raise ValueError(
                f"refill needs tolerance >= 0 and max_rounds >= 1, got {self.tolerance} and {self.max_rounds}"
            )

    def uninformative(self, rewards: Sequence[Sequence[RewardBreakdown]]) -> list[int]:
        """Numbers of the groups that teach nothing, ascending."""
        return [index for index, group in enumerate(rewards) if _spread(group) <= self.tolerance]


def _spread(group: Sequence[RewardBreakdown]) -> float:
    finite = [reward.total for reward in group if math.isfinite(reward.total)]
    return max(finite) - min(finite) if finite else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class OverlongPenalty:
    """A penalty for responses near the length limit, growing to `factor` there (DAPO, equation 13).

    buffer_share: where it begins, as a share in (0, 1] of the limit before its end.
    """

    buffer_share: float
    factor: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.buffer_share <= 1:
            raise ValueError(f"overlong.buffer_share must lie in (0, 1], got {self.buffer_share}; DAPO has 0.2")

    def buffer_tokens(self, max_tokens: int) -> int:
        """The penalised tokens, at least 1; ValueError where the limit is too short to have any."""
        if tokens := round(self.buffer_share * max_tokens):
            return tokens
        raise ValueError(f"overlong.buffer_share {self.buffer_share} of {max_tokens} tokens is less than one token")

    def __call__(
        self, groups: Sequence[Group], rewards: Sequence[Sequence[RewardBreakdown]], *, max_tokens: int
    ) -> list[list[RewardBreakdown]]:
        """Rewards with the penalty added, which is also named among their parts as `overlong`."""
        return [
            [
                replace(reward, total=reward.total + penalty, parts={**reward.parts, "overlong": penalty})
                for reward, penalty in zip(paid, self._penalties(group, max_tokens=max_tokens), strict=True)
            ]
            for group, paid in zip(groups, rewards, strict=True)
        ]

    def _penalties(self, group: Group, *, max_tokens: int) -> list[float]:
        lengths_N = torch.tensor([len(completion.token_ids) for completion in group.completions])
        penalty_B = soft_overlong_penalty(
            lengths_N, max_tokens=max_tokens, buffer_tokens=self.buffer_tokens(max_tokens)
        )
        return (self.factor * penalty_B).tolist()
