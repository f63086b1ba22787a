"""The rewards of the authors' public code, February 2026 (docs/method.md#challenger and #solver).

Sources: examples/reward_function/caller_penalty.py and examples/reward_function/math.py of Chengsong-Huang/R-Zero.
"""

from __future__ import annotations

from collections.abc import Sequence

from rzero.interfaces import Grader, Responses
from rzero.prompts import END_OF_THINK, THINK
from rzero.repetition import cluster_shares
from rzero.rewards.parts import Questions, Votes, repetition_penalties
from rzero.types import RewardBreakdown

BOX = "\\boxed{"


class OfficialChallengerReward:
    """min(p, 1 - p) - repetition; -1 - repetition without a question or where the vote failed. Not cut at 0.

    Read the responses with `rzero.parsing.official_reward_parse`, which decides what counts as a question.
    """

    def __init__(self, *, repetition_weight: float, repetition_threshold: float) -> None:
        self.repetition_weight = repetition_weight
        self.repetition_threshold = repetition_threshold

    def __call__(self, questions: Questions, votes: Votes) -> list[RewardBreakdown]:
        penalties = repetition_penalties(
            questions,
            weight=self.repetition_weight,
            threshold=self.repetition_threshold,
            repetition=cluster_shares,
        )
        breakdowns = []
        for question, vote, penalty in zip(questions, votes, penalties, strict=True):
            paid = question is not None and vote is not None
            uncertainty = min(vote.agreement, 1 - vote.agreement) if paid and vote is not None else -1.0
            parts = {"uncertainty": uncertainty, "repetition": penalty, "format": float(question is not None)}
            breakdowns.append(RewardBreakdown(total=uncertainty - penalty, parts=parts))
        return breakdowns


class OfficialSolverReward:
    """(1 - w) * accuracy + w * format, w = 0.1 in the authors' code; totals in [0, 1].

    Format: the response is think tags followed by a box, although no prompt asks for the tags. White space around <, >
    and / is removed from the response, but not from the label, before both are looked at (docs/authors_code.md, R16). A
    response without a box answers the literal "None".
    """

    def __init__(self, grader: Grader, *, format_weight: float) -> None:
        self.grader = grader
        self.format_weight = format_weight

    def __call__(self, groups: Responses, labels: Sequence[str]) -> list[list[RewardBreakdown]]:
        texts = [[close_up(response) for response in group] for group in groups]
        pairs = [(self._answer(text), label) for group, label in zip(texts, labels, strict=True) for text in group]
        right = iter(self.grader.accepts_many(pairs))
        return [[self._pay(text, right=next(right)) for text in group] for group in texts]

    def _answer(self, text: str) -> str:
        answer = self.grader.extract(text)
        return "None" if answer is None else answer

    def _pay(self, text: str, *, right: bool) -> RewardBreakdown:
        accuracy, form = float(right), float(thinks_then_boxes(text))
        total = (1 - self.format_weight) * accuracy + self.format_weight * form
        return RewardBreakdown(total=total, parts={"accuracy": accuracy, "format": form})


def close_up(text: str) -> str:
    """Remove the white space on both sides of each <, > and /. Linear, unlike the pattern it stands for."""
    for mark in "<>/":
        pieces = text.split(mark)
        last = len(pieces) - 1
        text = mark.join(
            (piece.lstrip() if i == last else piece.strip()) if i else (piece.rstrip() if last else piece)
            for i, piece in enumerate(pieces)
        )
    return text


def thinks_then_boxes(text: str) -> bool:
    """True for `<think> ... </think> ... \\boxed{ ... } ...`; the first of each is as good as any other."""
    if not text.startswith(THINK):
        return False
    position = len(THINK)
    for mark in (END_OF_THINK, BOX, "}"):
        found = text.find(mark, position)
        if found < 0:
            return False
        position = found + len(mark)
    return True
