"""An embedder for tests: the first letter of a text is its kind, and kinds lie at right angles."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rzero.types import LabelledQuestion, Vote

LETTERS = "abc"


class Letters:
    """Vectors of three dimensions, one for each of the letters a, b and c."""

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        rows = [[float(text.startswith(letter)) for letter in LETTERS] for text in texts]
        return np.array(rows, dtype=np.float32).reshape(len(texts), len(LETTERS))


class Past:
    """A question bank of given iterations."""

    def __init__(self, *iterations: Sequence[LabelledQuestion]) -> None:
        self.iterations = iterations

    def put(self, iteration: int, questions: Sequence[LabelledQuestion]) -> None:
        raise NotImplementedError

    def get(self, iteration: int) -> list[LabelledQuestion]:
        return list(self.iterations[iteration - 1])  # IndexError: nothing stored


def posed(text: str, *, iteration: int = 1, kept: bool = True, vote: Vote | None = None) -> LabelledQuestion:
    reason = None if kept else "no_vote"
    return LabelledQuestion(
        iteration=iteration, index=0, question=text, challenger_answer="1", vote=vote, drop_reason=reason
    )
