"""What a benchmark consists of, whatever it asks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkItem:
    """One question with its gold answer. Gold answers live in `evaluation` only and never reach training."""

    id: str
    question: str
    answer: str
    level: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """A named list of items that counts towards MATH AVG (`math`) or on its own towards Overall AVG (`general`)."""

    name: str
    group: Literal["math", "general"]
    items: tuple[BenchmarkItem, ...]


class BenchmarkSource(Protocol):
    """Anything that can say which benchmarks a suite holds."""

    def __call__(self) -> Sequence[Benchmark]: ...
