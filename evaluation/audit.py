"""Measuring the questions of a round from outside the loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rzero.types import LabelledQuestion


class NoAudit:
    """For worlds without an oracle."""

    def __init__(self, **_: object) -> None: ...

    def __call__(self, questions: Sequence[LabelledQuestion]) -> Mapping[str, float]:
        return {}
