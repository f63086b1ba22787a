"""A bonus where the Challenger can answer its own question (the idea of the preset pre_2025_12).

The authors once paid nothing unless the majority was the Challenger's own answer; a bonus keeps the uncertainty signal
and still rewards questions that have an answer.
"""

from __future__ import annotations

from rzero.interfaces import ChallengerReward, Grader
from rzero.rewards.parts import Questions, Votes, well_formed
from rzero.types import RewardBreakdown


class SelfAnswerBonus:
    """`reward` plus `bonus` where its total is positive and the majority equals the Challenger's own answer."""

    def __init__(self, grader: Grader, *, reward: ChallengerReward, bonus: float) -> None:
        if bonus < 0:
            raise ValueError(f"challenger_reward.bonus must be 0 or positive, got {bonus}")
        self.grader = grader
        self.reward = reward
        self.bonus = bonus

    def __call__(self, questions: Questions, votes: Votes) -> list[RewardBreakdown]:
        pairs = [
            (vote.label or "", question.answer or "")
            if question is not None and well_formed(question) and vote is not None
            else ("", "")
            for question, vote in zip(questions, votes, strict=True)
        ]
        classes = self.grader.classes(pairs)
        breakdowns = []
        for paid, pair, (_, own) in zip(self.reward(questions, votes), pairs, classes, strict=True):
            extra = self.bonus if all(pair) and own == 0 and paid.total > 0 else 0.0
            breakdowns.append(RewardBreakdown(total=paid.total + extra, parts={**paid.parts, "self_answer": extra}))
        return breakdowns
