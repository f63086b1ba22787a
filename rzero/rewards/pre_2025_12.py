"""The authors' Challenger reward before 10 December 2025 (docs/method.md#challenger; docs/authors_code.md, R4)."""

from __future__ import annotations

from rzero.repetition import cluster_shares
from rzero.rewards.parts import Questions, Votes, repetition_penalties
from rzero.types import Question, RewardBreakdown, Vote

PARTS = ("last_character", "box")


class Pre202512ChallengerReward:
    """min(s, 1 - s) - repetition, where s = p if the majority answer is the Challenger's own one and p > 0.1, else 0.

    Equality is that of strings. `compared` says what the majority is compared with: the historic code took only the
    `last_character` of the Challenger's box by mistake; `box` takes what is in it. -1 - repetition without a question.
    """

    def __init__(
        self, *, repetition_weight: float, repetition_threshold: float, agreement_above: float, compared: str
    ) -> None:
        if compared not in PARTS:
            raise ValueError(f"challenger_reward.compared must be one of {', '.join(PARTS)}; got {compared!r}")
        self.repetition_weight = repetition_weight
        self.repetition_threshold = repetition_threshold
        self.agreement_above = agreement_above
        self.compared = compared

    def __call__(self, questions: Questions, votes: Votes) -> list[RewardBreakdown]:
        penalties = repetition_penalties(
            questions,
            weight=self.repetition_weight,
            threshold=self.repetition_threshold,
            repetition=cluster_shares,
        )
        breakdowns = []
        for question, vote, penalty in zip(questions, votes, penalties, strict=True):
            uncertainty = self._uncertainty(question, vote)
            parts = {"uncertainty": uncertainty, "repetition": penalty, "format": float(question is not None)}
            breakdowns.append(RewardBreakdown(total=uncertainty - penalty, parts=parts))
        return breakdowns

    def _uncertainty(self, question: Question | None, vote: Vote | None) -> float:
        if question is None or vote is None:
            return -1.0
        own = question.answer or ""
        own = own[-1:] if self.compared == "last_character" else own
        score = vote.agreement if vote.label == own and vote.agreement > self.agreement_above else 0.0
        return min(score, 1 - score)
