"""The uncertainty reward with another centre and width (docs/method.md#variants; the paper's: 1/2 and 1/2)."""

from __future__ import annotations

from rzero.repetition import cluster_shares
from rzero.rewards.parts import Questions, Repetition, Votes, repetition_penalties, require_range, well_formed
from rzero.types import RewardBreakdown


class InvertedU:
    """max(0, uncertainty - repetition) with uncertainty = max(0, 1 - |p - centre| / half_width); 0 if malformed."""

    def __init__(
        self,
        *,
        centre: float,
        half_width: float,
        repetition_weight: float,
        repetition_threshold: float,
        repetition: Repetition = cluster_shares,
    ) -> None:
        self.centre = require_range("challenger_reward.centre", centre, low=0, high=1)
        if half_width <= 0:
            raise ValueError(f"challenger_reward.half_width must be positive, got {half_width}; the paper's is 0.5")
        self.half_width = half_width
        self.repetition_weight = repetition_weight
        self.repetition_threshold = repetition_threshold
        self.repetition = repetition

    def __call__(self, questions: Questions, votes: Votes) -> list[RewardBreakdown]:
        penalties = repetition_penalties(
            questions,
            weight=self.repetition_weight,
            threshold=self.repetition_threshold,
            repetition=self.repetition,
        )
        breakdowns = []
        for question, vote, penalty in zip(questions, votes, penalties, strict=True):
            right = well_formed(question)
            paid = right and vote is not None
            uncertainty = max(0.0, 1 - abs(vote.agreement - self.centre) / self.half_width) if paid and vote else 0.0
            parts = {"uncertainty": uncertainty, "repetition": penalty, "format": float(right)}
            breakdowns.append(RewardBreakdown(total=max(0.0, uncertainty - penalty) if right else 0.0, parts=parts))
        return breakdowns
