"""Results of a conformance check: one result per row, and the report over all rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from rich.console import Console
from rich.progress import Progress

from rzero.types import Json

Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class RowResult:
    """One row of a data file: whether ours agrees with what was recorded.

    `allowed` is the documented reason why a difference is right ("D5", say, a number of docs/authors_code.md); it
    is None where the row agrees and where it differs for no accepted reason. `why` says what differs, in one line.
    """

    id: str
    agree: bool
    allowed: str | None = None
    why: str = ""

    @property
    def wrong(self) -> bool:
        """True when the row differs and nobody has written down why it may."""
        return not self.agree and self.allowed is None


@dataclass(frozen=True, slots=True)
class Report:
    """All rows of one file."""

    results: Sequence[RowResult]
    note: str = ""

    @property
    def passed(self) -> bool:
        """True when there is at least one row and every row agrees or differs for an accepted reason."""
        return bool(self.results) and not any(result.wrong for result in self.results)

    @property
    def summary(self) -> str:
        """One line: rows, agreements, accepted differences, wrong rows."""
        agree = sum(result.agree for result in self.results)
        allowed = sum(not result.agree and result.allowed is not None for result in self.results)
        wrong = sum(result.wrong for result in self.results)
        line = f"{len(self.results)} rows: {agree} agree, {allowed} differ for a documented reason, {wrong} differ"
        return f"{line}; {self.note}" if self.note else line

    def as_json(self) -> Json:
        """The same as plain data: keys `rows`, `agree`, `allowed`, `differ`, `passed`, `summary`."""
        return {
            "rows": len(self.results),
            "agree": sum(result.agree for result in self.results),
            "allowed": [_plain(result) for result in self.results if not result.agree and not result.wrong],
            "differ": [_plain(result) for result in self.results if result.wrong],
            "passed": self.passed,
            "summary": self.summary,
        }


def _plain(result: RowResult) -> Json:
    return {"id": result.id, "reason": result.allowed, "why": result.why}


def tracked(rows: Sequence[Row], *, title: str) -> Iterator[Row]:
    """Yield the rows with a progress bar on stderr, so that stdout stays clean for `--json`."""
    with Progress(console=Console(stderr=True), transient=True) as progress:
        yield from progress.track(rows, description=title, total=len(rows))


def differences(expected: Iterable[tuple[str, object, object]]) -> str:
    """Join the (name, ours, recorded) triples that are unequal into one line; empty when all are equal."""
    return "; ".join(f"{name}: {ours!r} != {theirs!r}" for name, ours, theirs in expected if ours != theirs)
