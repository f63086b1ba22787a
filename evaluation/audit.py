"""Audits of questions from outside the loop, for worlds that have none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rzero.types import LabelledQuestion


class NoAudit:
    """Measures nothing: for worlds without an oracle."""

    def __init__(self, **_: object) -> None: ...

    def __call__(self, questions: Sequence[LabelledQuestion]) -> Mapping[str, float]:
        return {}
