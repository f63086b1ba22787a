"""Parts that Challenger rewards have in common: the repetition penalty, what was posed before, and its charge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from rzero.interfaces import QuestionBank
from rzero.types import LabelledQuestion, Question, RewardBreakdown, Vote

Questions = Sequence[Question | None]
Votes = Sequence[Vote | None]


class Repetition(Protocol):
    """Says which share of a batch repeats each question, |C_k| / B in (0, 1], in order (conf/repetition)."""

    def __call__(self, questions: Sequence[str], *, threshold: float) -> list[float]: ...


def repetition_penalties(
    questions: Questions, *, weight: float, threshold: float, repetition: Repetition
) -> list[float]:
    """weight * |C_k| / B per response, in [0, weight]; a response without a question is a cluster of its own."""
    texts = ["" if question is None else question.text for question in questions]
    return [weight * share for share in repetition(texts, threshold=threshold)]


def well_formed(question: Question | None) -> bool:
    """True when both parts of the format are there and not empty: the question and the Challenger's own answer."""
    return question is not None and bool(question.text) and bool(question.answer)


def past_questions(bank: QuestionBank) -> list[list[str]]:
    """Returns the texts of `past_items`."""
    return [[item.question for item in items] for items in past_items(bank)]


def past_items(bank: QuestionBank) -> list[list[LabelledQuestion]]:
    """Returns what the bank holds, dropped questions included, iteration by iteration.

    That is for the iterations 1, 2, ... up to the first it knows nothing about (empty, LookupError or
    FileNotFoundError). Questions that a curriculum took over from earlier iterations count once.
    """
    past: list[list[LabelledQuestion]] = []
    while True:
        iteration = len(past) + 1
        try:
            stored = [item for item in bank.get(iteration) if item.question and item.iteration == iteration]
        except (LookupError, FileNotFoundError):
            stored = []
        if not stored:
            return past
        past.append(stored)


def unless_negative(breakdown: RewardBreakdown, *, charge: float, part: str) -> RewardBreakdown:
    """Take a further charge off a reward without pushing it below 0; a reward at or below 0 is left alone."""
    total = max(min(breakdown.total, 0.0), breakdown.total - charge)
    return RewardBreakdown(total=total, parts={**breakdown.parts, part: charge})


def require_range(name: str, value: float, *, low: float, high: float) -> float:
    """The value itself; ValueError with the value and the fix when it lies outside [low, high]."""
    if not low <= value <= high:
        raise ValueError(f"{name} must lie in [{low}, {high}], got {value}; change it in the reward's file in conf/")
    return value
