"""A governor of difficulty: how much harder than the last iteration's questions the Challenger may pose.

Where the Solver's agreement is the only signal, the Challenger outruns what votes can label: agreement stays in the
band while the labels turn wrong. A question's length stands for its difficulty here, which needs no further model; in
the long run it grows with the number of steps that a question asks for.
"""

from __future__ import annotations

import math

from rzero.interfaces import ChallengerReward, QuestionBank
from rzero.rewards.parts import Questions, Votes, past_items, require_range
from rzero.types import RewardBreakdown


class Governor:
    """`reward`, but nothing for a question of more than `growth` times the characters that are usual at the edge.

    The edge: the `quantile` of the lengths of the questions that the newest iteration in the bank kept, itself a
    length that occurs. In the first iteration there is none and no question is too long. `parts` gains `governed`, 1
    where the reward was taken away.
    """

    def __init__(self, bank: QuestionBank, *, reward: ChallengerReward, growth: float, quantile: float) -> None:
        if growth <= 0:
            raise ValueError(f"challenger_reward.growth must be positive, got {growth}; 1.1 allows a tenth more")
        self.bank, self.reward, self.growth = bank, reward, growth
        self.quantile = require_range("challenger_reward.quantile", quantile, low=0, high=1)

    def __call__(self, questions: Questions, votes: Votes) -> list[RewardBreakdown]:
        limit = self._limit()
        return [
            RewardBreakdown(total=min(item.total, 0.0) if over else item.total, parts={**item.parts, "governed": over})
            for item, over in (
                (item, float(question is not None and len(question.text) > limit))
                for item, question in zip(self.reward(questions, votes), questions, strict=True)
            )
        ]

    def _limit(self) -> float:
        kept = [sorted(len(item.question) for item in items if item.kept) for items in past_items(self.bank)]
        lengths = next((lengths for lengths in reversed(kept) if lengths), None)
        if lengths is None:
            return math.inf
        return self.growth * lengths[min(len(lengths) - 1, math.floor(self.quantile * len(lengths)))]
