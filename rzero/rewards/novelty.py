"""Novelty in the Solver's reward (EVOL-RL, arXiv 2509.15194): the majority selects, variation within it is paid.

A Solver that is paid for the majority's answer alone comes to write one solution over and over. Here what agrees with
the label is always paid more than what does not, and on either side the more, the less a response resembles the others.

Shapes: N responses to one question, E width of their vectors.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rzero.interfaces import Embedder, Grader, Responses
from rzero.rewards.paper import PaperSolverReward
from rzero.rewards.parts import require_range
from rzero.types import RewardBreakdown

EQUAL = 1e-4
"""Differences of novelty up to here are rounding: the same text beside others gets a vector with other last bits."""


class NoveltySolverReward:
    """In [1/2, 1] for the label's answer, in [-1, -1/2] for another one, -1 without a box.

    On either side of a group: the lower end plus half the novelty, which is 1 minus mean_weight * mean cosine to the
    responses of the same side, minus (1 - mean_weight) * largest cosine to any other of the group, brought to [0, 1]
    over the side. Where all are equally new, or one is alone, it is 1, so that nothing is taken off; the authors' code
    gives most of these the middle of the side's range. In the paper the sides are made by the vote of the rollouts
    themselves, here by the label. `parts` gains `novelty`, before it is stretched.
    """

    def __init__(self, grader: Grader, embedder: Embedder, *, mean_weight: float) -> None:
        self.mean_weight = require_range("solver_reward.mean_weight", mean_weight, low=0, high=1)
        self.right, self.embedder = PaperSolverReward(grader), embedder

    def __call__(self, groups: Responses, labels: Sequence[str]) -> list[list[RewardBreakdown]]:
        vectors = self.embedder.embed([response for group in groups for response in group])
        ends = np.cumsum([len(group) for group in groups])
        by_group = np.split(vectors, ends[:-1])
        return [self._pay(judged, own) for judged, own in zip(self.right(groups, labels), by_group, strict=True)]

    def _pay(self, judged: Sequence[RewardBreakdown], vectors: NDArray[np.float32]) -> list[RewardBreakdown]:
        sides = [item.parts["accuracy"] if item.parts["format"] else None for item in judged]
        novelty = self._novelty(vectors, sides)
        return [
            RewardBreakdown(
                total=-1.0 if side is None else (0.5 if side else -1.0) + 0.5 * _within(novelty, sides, place),
                parts={**item.parts, "novelty": novelty[place]},
            )
            for place, (item, side) in enumerate(zip(judged, sides, strict=True))
        ]

    def _novelty(self, vectors: NDArray[np.float32], sides: Sequence[float | None]) -> list[float]:
        cosines = (vectors.astype(np.float64) @ vectors.astype(np.float64).T).tolist()
        found = []
        for place, row in enumerate(cosines):
            others = [other for other in range(len(row)) if other != place]
            same = [row[other] for other in others if sides[other] == sides[place]]
            mean, nearest = (sum(same) / len(same) if same else 0.0), max((row[other] for other in others), default=0.0)
            found.append(1 - self.mean_weight * mean - (1 - self.mean_weight) * nearest)
        return found


def _within(novelty: Sequence[float], sides: Sequence[float | None], place: int) -> float:
    """The novelty of one response as its place, in [0, 1], between the least and the greatest of its side."""
    side = [value for value, other in zip(novelty, sides, strict=True) if other == sides[place]]
    low, high = min(side), max(side)
    return (novelty[place] - low) / (high - low) if high - low > EQUAL else 1.0
