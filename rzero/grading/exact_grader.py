"""Equality of normalised strings: no processes, no algebra. For tests, micro runs and tasks with one spelling."""

from __future__ import annotations

from collections.abc import Sequence

from rzero.grading import normalise
from rzero.grading.extraction import last_boxed


class ExactGrader:
    """Two answers are the same, and accepted, if they are spelt alike once normalised (`Grader`).

    One longer than `max_chars` is spelt only like itself.
    """

    def __init__(self, *, max_chars: int) -> None:
        if max_chars < 1:
            raise ValueError(f"grader.max_chars must be at least 1, got {max_chars}")
        self._max_chars = max_chars

    def extract(self, response: str) -> str | None:
        return last_boxed(response, max_chars=self._max_chars)

    def accepts(self, prediction: str, reference: str) -> bool:
        return self.same(prediction, reference)

    def accepts_many(self, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        return [self.same(*pair) for pair in pairs]

    def same(self, left: str, right: str) -> bool:
        return bool(left.strip()) and self._spelling(left) == self._spelling(right)

    def same_many(self, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        return [self.same(*pair) for pair in pairs]

    def classes(self, batch: Sequence[Sequence[str]]) -> list[list[int]]:
        """For each list of answers: the index of the first answer that each is spelt like."""
        rows = [[self._spelling(answer) for answer in answers] for answers in batch]
        return [[row.index(spelling) for spelling in row] for row in rows]

    def _spelling(self, text: str) -> str:
        # a text that normalises to nothing, or is too long, is its own spelling; the blank keeps it apart from others
        return (len(text) <= self._max_chars and normalise.key(normalise.clean(text))) or f" {text}"

    def close(self) -> None:
        """Nothing to release."""
