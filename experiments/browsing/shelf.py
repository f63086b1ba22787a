"""The runs that are looked through: given once, by number, and read again only when something in them changed."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from experiments.reporting import content, outline
from experiments.reporting.content import Section
from experiments.reporting.data import Round, Run, read_run

Stamp = tuple[tuple[str, int, int], ...]

_FILES = ("config.yaml", "run.json", "state.json", "metrics.jsonl", "questions/*.jsonl", "iteration_*/evaluation.json")


@dataclass(kw_only=True, eq=False)
class Shelved:
    """A run as it was read, with what is slow to work out about it (bootstrapped intervals)."""

    number: int
    run: Run
    stamp: Stamp

    @cached_property
    def sections(self) -> dict[str, Section]:
        """The sections of its report, by title."""
        return {section.title: section for section in outline.of_run(self.run)}

    @cached_property
    def gain(self) -> float | None:
        """Points of `overall` from the base model to the last round."""
        change = content.last_gain(self.run)
        return None if change is None else change.points

    @property
    def finished(self) -> bool:
        return self.run.done >= self.run.planned

    def round(self, iteration: int) -> Round | None:
        """None when the run has no such round (yet)."""
        return self.run.rounds[iteration] if 0 <= iteration < len(self.run.rounds) else None


class Shelf:
    """`shelf[number]` for the runs in the order they were given; a number is all that a request can say.

    Raises FileNotFoundError when a path is no run, ValueError when a file in it is damaged; so does reading again.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = tuple(paths)
        self._lock = threading.Lock()
        self._read: dict[int, Shelved] = {}
        for number in range(len(self._paths)):
            self[number]

    def __len__(self) -> int:
        return len(self._paths)

    def __iter__(self) -> Iterator[Shelved]:
        return (self[number] for number in range(len(self)))

    def __getitem__(self, number: int) -> Shelved:
        if not 0 <= number < len(self._paths):
            raise IndexError(number)
        path = self._paths[number]
        with self._lock:
            stamp, known = _stamp(path), self._read.get(number)
            if known is None or known.stamp != stamp:
                known = self._read[number] = Shelved(number=number, run=read_run(path), stamp=stamp)
            return known


def _stamp(path: Path) -> Stamp:
    """Changes when a file that is shown changes."""
    found = sorted(file for pattern in _FILES for file in path.glob(pattern))
    stats = [(file, file.stat()) for file in found]
    return tuple((str(file), stat.st_mtime_ns, stat.st_size) for file, stat in stats)
