"""Benchmarks: named lists of questions with their gold answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

BenchmarkGroup = Literal["math", "general"]
"""The average a benchmark counts towards: MATH AVG, or by itself Overall AVG."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkItem:
    """One question with its gold answer. Gold answers live in `evaluation` only and never reach training."""

    id: str
    question: str
    answer: str
    level: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """A named list of items."""

    name: str
    group: BenchmarkGroup
    items: tuple[BenchmarkItem, ...]


class BenchmarkSource(Protocol):
    """Returns the benchmarks that a suite can ask."""

    def __call__(self) -> Sequence[Benchmark]: ...
