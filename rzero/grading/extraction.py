"""The answer that a grader finds in a response: the last box of the model's own turn (`rzero.boxes`, `rzero.turns`).

Evaluation of models that never saw the contract may also read prose (`rzero.grading.prose`), which is a separate,
explicit choice.
"""

from __future__ import annotations

from rzero import boxes
from rzero.turns import own_turn


def last_boxed(text: str, *, max_chars: int) -> str | None:
    """Content of the last box before another turn is opened; None if there is none or it exceeds `max_chars`."""
    answer = boxes.last_boxed(own_turn(text))
    return None if answer is None or len(answer) > max_chars else answer


def last_boxed_official(text: str) -> str | None:
    """The authors' extraction, which reads the whole text; "" for an empty box, None for none."""
    return boxes.last_boxed(text, rule="mathruler")
