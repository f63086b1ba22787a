"""Which questions of an iteration are shown: filtered, sorted, a page at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from rzero.types import LabelledQuestion

Order = Literal["posed", "surest", "most disputed", "longest", "shortest"]
ALL, KEPT, DROPPED = "all", "kept", "dropped"
PAGE = 50
"""Questions on a page."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """outcome: all, kept, dropped, or one drop reason. text: to be found in the question, its label or an answer."""

    outcome: str = ALL
    text: str = ""
    order: Order = "posed"
    page: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """`questions` are those of this page; `found` counts all that match, `first` is the place of the first (from 1)."""

    questions: Sequence[LabelledQuestion]
    found: int
    number: int
    pages: int

    @property
    def first(self) -> int:
        return (self.number - 1) * PAGE + 1 if self.questions else 0

    @property
    def last(self) -> int:
        return self.first + len(self.questions) - 1 if self.questions else 0


def select(questions: Sequence[LabelledQuestion], wanted: Wanted) -> Page:
    """The wanted page; the last one when there are not so many."""
    text = wanted.text.casefold()
    found = [q for q in questions if _has_outcome(q, wanted.outcome) and (not text or _mentions(q, text))]
    found.sort(key=_ORDERS[wanted.order])  # stable: the order in which they were posed decides ties
    pages = max(1, -(-len(found) // PAGE))
    number = min(max(wanted.page, 1), pages)
    return Page(questions=found[(number - 1) * PAGE : number * PAGE], found=len(found), number=number, pages=pages)


def outcomes(questions: Sequence[LabelledQuestion]) -> Mapping[str, int]:
    """How many questions each filter gives: all, kept, dropped, then the drop reasons, most frequent first."""
    reasons = Counter(question.drop_reason for question in questions if question.drop_reason)
    dropped = sum(reasons.values())
    return {ALL: len(questions), KEPT: len(questions) - dropped, DROPPED: dropped, **dict(reasons.most_common())}


def _has_outcome(question: LabelledQuestion, outcome: str) -> bool:
    if outcome in (ALL, KEPT, DROPPED):
        return outcome == ALL or question.kept == (outcome == KEPT)
    return question.drop_reason == outcome


def _mentions(question: LabelledQuestion, text: str) -> bool:
    answers = [answer for answer, _ in question.vote.counts] if question.vote else []
    places = [question.question, question.challenger_answer or "", *answers]
    return any(text in place.casefold() for place in places)


def _agreement(question: LabelledQuestion) -> float:
    return question.vote.agreement if question.vote else -1.0


_ORDERS: Mapping[Order, Callable[[LabelledQuestion], float]] = {
    "posed": lambda question: question.index,
    "surest": lambda question: -_agreement(question),
    "most disputed": lambda question: _agreement(question) if question.vote else 2.0,
    "longest": lambda question: -len(question.question),
    "shortest": lambda question: len(question.question),
}
