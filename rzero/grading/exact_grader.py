"""Equality of normalised strings: no processes, no algebra. For tests, micro runs and tasks with one spelling."""

from __future__ import annotations

from rzero.grading import normalise
from rzero.grading.extraction import last_boxed


class ExactGrader:
    """Two answers are equivalent if they are spelt alike once normalised (`Grader`). Longer than `max_chars`: not."""

    def __init__(self, *, max_chars: int) -> None:
        if max_chars < 1:
            raise ValueError(f"grader.max_chars must be at least 1, got {max_chars}")
        self._max_chars = max_chars

    def extract(self, response: str) -> str | None:
        return last_boxed(response, max_chars=self._max_chars)

    def equivalent(self, left: str, right: str) -> bool:
        if left == right:
            return bool(left.strip())
        if max(len(left), len(right)) > self._max_chars:
            return False
        first, second = (normalise.key(normalise.clean(text)) for text in (left, right))
        return bool(first) and first == second

    def equivalent_many(self, pairs: list[tuple[str, str]]) -> list[bool]:
        return [self.equivalent(left, right) for left, right in pairs]

    def close(self) -> None:
        """Nothing to release."""
