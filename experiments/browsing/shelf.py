"""The runs that are looked through: given once, by number, and read again only when something in them changed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from matplotlib.figure import Figure

from experiments.reporting import content, figures, outline
from experiments.reporting.content import Section, SectionId
from experiments.reporting.data import Iteration, Run, read_run
from experiments.terminal import progress
from rzero.runs.directory import RunDirectory

Stamp = tuple[tuple[str, int, int], ...]


@dataclass(kw_only=True, eq=False)
class Shelved:
    """A run as it was read, with what is slow to work out about it (bootstrapped intervals, pictures)."""

    number: int
    run: Run
    stamp: Stamp

    pictures: dict[str, bytes] = field(default_factory=dict)

    def drawn(self, name: str, draw: Callable[[], Figure]) -> bytes:
        """Return a picture of the run as a PNG, drawn when it is first asked for."""
        if name not in self.pictures:
            self.pictures[name] = figures.png(draw)
        return self.pictures[name]

    @cached_property
    def sections(self) -> dict[SectionId, Section]:
        """The sections of its report by their ids."""
        return {section.id: section for section in outline.of_run(self.run)}

    @cached_property
    def gain(self) -> float | None:
        """Points of `overall` from the base model to the last iteration."""
        change = content.last_gain(self.run)
        return None if change is None else change.points

    @property
    def finished(self) -> bool:
        return self.run.done >= self.run.planned

    def iteration(self, number: int) -> Iteration | None:
        """None when the run has no such iteration (yet)."""
        return self.run.iterations[number] if 0 <= number < len(self.run.iterations) else None


class Shelf:
    """`shelf[number]` for the runs in the order they were given; a number is all that a request can say.

    Raises FileNotFoundError when a path is no run, ValueError when a file in it is damaged; so does reading again.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = tuple(paths)
        self._lock = threading.Lock()
        self._read: dict[int, Shelved] = {}
        with progress("reading", total=len(self._paths)) as meter:
            for number, path in enumerate(self._paths):
                self[number]
                meter.advance(path.name)

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
    """Return a value that changes when a file that is shown changes."""
    there = RunDirectory(path)
    named = [there.config, there.manifest, there.state, there.metrics, *map(there.scores, there.iterations())]
    found = sorted(file for file in [*named, *there.bank.glob("*.jsonl")] if file.is_file())
    stats = [(file, file.stat()) for file in found]
    return tuple((str(file), stat.st_mtime_ns, stat.st_size) for file, stat in stats)
