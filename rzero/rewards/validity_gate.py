"""A validity gate before the difficulty reward (compare Absolute Zero, arXiv 2505.03335, section 3.3).

Where the Solver's agreement is the only signal, a question nobody can answer pays as much as a hard one. The gate looks
at the text and at how many responses came to an answer at all, and needs no further model.
"""

from __future__ import annotations

from rzero.interfaces import ChallengerReward
from rzero.rewards.parts import Questions, Votes, require_range
from rzero.types import Question, RewardBreakdown, Vote

PROOF_REQUESTS = ("prove that", "prove the", "show that", "证明")
ANSWER_MARKS = ("answer:", "answer is", "answer =", "answer=")


class ValidityGate:
    """`reward` as if the format were broken for each question with a fault; `parts` gains `valid` (0 or 1)."""

    def __init__(
        self, *, reward: ChallengerReward, least_characters: int, longest_answer: int, least_answered: float
    ) -> None:
        self.reward = reward
        self.least_characters = least_characters
        self.longest_answer = longest_answer
        self.least_answered = require_range("challenger_reward.least_answered", least_answered, low=0, high=1)

    def __call__(self, questions: Questions, votes: Votes) -> list[RewardBreakdown]:
        faults = [self.fault(question, vote) for question, vote in zip(questions, votes, strict=True)]
        passed = [question if fault is None else None for question, fault in zip(questions, faults, strict=True)]
        return [
            RewardBreakdown(total=paid.total, parts={**paid.parts, "valid": float(fault is None)})
            for paid, fault in zip(self.reward(passed, votes), faults, strict=True)
        ]

    def fault(self, question: Question | None, vote: Vote | None) -> str | None:
        """no_question, too_short, asks_for_proof, long_answer, states_its_answer, unanswered; None when valid."""
        if question is None or not question.answer:
            return "no_question"
        text, answer = question.text.lower(), question.answer.lower()
        if len(text) < self.least_characters:
            return "too_short"
        if any(request in text for request in PROOF_REQUESTS):
            return "asks_for_proof"
        if len(answer) > self.longest_answer:
            return "long_answer"
        if any(text.rpartition(mark)[2].lstrip(" $").startswith(answer) for mark in ANSWER_MARKS if mark in text):
            return "states_its_answer"
        if vote is not None and _answered(vote) < self.least_answered:
            return "unanswered"
        return None


def _answered(vote: Vote) -> float:
    """Share of the responses that hold an answer."""
    return sum(answer is not None for answer in vote.answers) / max(1, len(vote.answers))
