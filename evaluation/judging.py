"""Right or wrong: the responses to one benchmark question against its gold answers.

A document is what a task of `evaluation/tasks` asks: a flat row with `id`, `question` (as it is put to the model),
`kind` (how its answer is read and compared), `answers` (each of them right), `options` (how many, 0 for none), `level`
and `entry` (what a procedural scorer needs, JSON).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from evaluation import reasoning
from evaluation.phrases import plain_phrase, same_phrase
from evaluation.reading import Reading, mathematics_answer, option_answer, phrase_answer
from rzero.interfaces import Grader, VoteRule

Document = Mapping[str, Any]
KINDS = ("mathematics", "option", "phrase", "procedural")


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """Verdicts on the k responses to one document, in order. `majority` is about the most frequent answer."""

    answers: tuple[str | None, ...]
    right: tuple[bool, ...]
    majority: bool

    def metrics(self) -> dict[str, float]:
        """Shares in [0, 1] for lm-eval."""
        return {
            "exact_match": sum(self.right) / len(self.right),
            "maj": float(self.majority),
            "any_right": float(any(self.right)),
            "well_formed": sum(answer is not None for answer in self.answers) / len(self.answers),
        }


class Fallback(Protocol):
    """Answers where a response names no option; None means that it stays without an answer."""

    def __call__(self, document: Document, sample: int) -> str | None: ...


class NoFallback:
    """A response that names no option is wrong."""

    def __call__(self, document: Document, sample: int) -> str | None:
        return None


class RandomLetter:
    """The authors' scripts draw one of A..J, whatever the number of options. Seeded here, by document and sample."""

    def __init__(self, *, seed: int) -> None:
        self.seed = seed

    def __call__(self, document: Document, sample: int) -> str | None:
        return random.Random(f"{self.seed}/{document['id']}/{sample}").choice("ABCDEFGHIJ")


class Judge:
    """Reads and compares answers of every kind. `reading` is about mathematics: boxes only, or prose as well."""

    def __init__(self, *, grader: Grader, vote: VoteRule, reading: Reading, fallback: Fallback) -> None:
        if reading not in ("boxed", "stated"):
            raise ValueError(f"benchmarks.reading must be boxed or stated, got {reading!r}")
        self.grader, self.vote, self.reading, self.fallback = grader, vote, reading, fallback

    def __call__(self, document: Document, responses: Sequence[str]) -> Judged:
        """Raises ValueError for a document of unknown kind."""
        answers = tuple(self._read(document, response, sample) for sample, response in enumerate(responses))
        verdicts = self._verdicts(document, sorted({answer for answer in answers if answer is not None}))
        label = self._majority(document, answers, responses)
        if label is not None and label not in verdicts:
            verdicts |= self._verdicts(document, [label])
        return Judged(
            answers=answers,
            right=tuple(answer is not None and verdicts[answer] for answer in answers),
            majority=label is not None and verdicts[label],
        )

    def _read(self, document: Document, response: str, sample: int) -> str | None:
        match document["kind"]:
            case "mathematics":
                return mathematics_answer(response, reading=self.reading, extract=self.grader.extract)
            case "option":
                return option_answer(response, options=document["options"]) or self.fallback(document, sample)
            case "phrase" | "procedural":
                return phrase_answer(response)
            case unknown:
                raise ValueError(f"document {document['id']}: kind must be one of {', '.join(KINDS)}, got {unknown!r}")

    def _verdicts(self, document: Document, answers: Sequence[str]) -> dict[str, bool]:
        """Whether each of the distinct answers is right."""
        golds: Sequence[str] = document["answers"]
        match document["kind"]:
            case "mathematics":
                asked = [answer for answer in answers if answer not in golds]
                pairs = [(answer, gold) for answer in asked for gold in golds]
                equal = dict(zip(pairs, self.grader.accepts_many(pairs), strict=True))
                return {answer: answer in golds or any(equal[answer, gold] for gold in golds) for answer in answers}
            case "phrase":
                return {answer: any(same_phrase(answer, gold) for gold in golds) for answer in answers}
            case "procedural":
                return {answer: reasoning.is_right(answer, entry=document["entry"]) for answer in answers}
            case _:
                return {answer: answer in golds for answer in answers}

    def _majority(self, document: Document, answers: Sequence[str | None], responses: Sequence[str]) -> str | None:
        """The most frequent answer: by the vote of the method where boxes are read, else by spelling."""
        if document["kind"] == "mathematics" and self.reading == "boxed" and len(responses) > 1:
            return self.vote(responses).label
        counts: Counter[str] = Counter()
        first: dict[str, str] = {}
        for answer in answers:
            if answer is not None:
                counts[first.setdefault(plain_phrase(answer), answer)] += 1
        return max(counts, key=counts.__getitem__, default=None)
