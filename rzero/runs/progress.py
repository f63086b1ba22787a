"""Live progress: which iteration, which phase, which step of how many, what it looks like, how long it will take."""

from __future__ import annotations

import time
from typing import Protocol

from rich import get_console
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn


class Narrator(Protocol):
    """Told what happens, in order: `begin` a phase, `advance` it, `end` it; `say` something that should stay."""

    def begin(self, title: str, total: int) -> None: ...

    def advance(self, note: str = "", steps: int = 1) -> None: ...

    def end(self, summary: str = "") -> None: ...

    def say(self, text: str) -> None: ...


class Silent:
    """Says nothing."""

    def begin(self, title: str, total: int) -> None: ...

    def advance(self, note: str = "", steps: int = 1) -> None: ...

    def end(self, summary: str = "") -> None: ...

    def say(self, text: str) -> None: ...


class Meter:
    """The progress of one piece of work and the time left: a bar on a terminal; in a log a line every `seconds`.

    It is shown until `close`; a terminal keeps nothing of it.
    """

    def __init__(self, title: str, *, total: int, seconds: float, console: Console) -> None:
        self.title, self.total, self.done = title, max(total, 1), 0
        self.seconds, self.console = seconds, console
        self._started = self._last_line = time.monotonic()
        self._bar: Progress | None = None
        if console.is_terminal:
            self._bar = Progress(
                SpinnerColumn(),
                TextColumn("[bold]{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=console,
                transient=True,
            )
            self._bar.add_task(escape(title), total=self.total, note="")
            self._bar.start()

    def advance(self, note: str = "", steps: int = 1) -> None:
        """Counts `steps` more."""
        self.reach(self.done + steps, note)

    def reach(self, done: int, note: str = "") -> None:
        """Says that `done` of all are done by now."""
        self.done = done
        if self._bar:
            self._bar.update(self._bar.task_ids[0], completed=done, note=escape(note))
        elif time.monotonic() - self._last_line > self.seconds:
            self._last_line = time.monotonic()
            parts = (f"{self.title}  {done}/{self.total}", self._left(), note)
            line(self.console, "  ".join(part for part in parts if part))

    def _left(self) -> str:
        if not 0 < self.done < self.total:
            return ""
        return f"{duration(self.took() / self.done * (self.total - self.done))} left"

    def took(self) -> float:
        """Returns the seconds since it began."""
        return time.monotonic() - self._started

    def close(self) -> None:
        """Takes the bar away."""
        if self._bar:
            self._bar.stop()
            self._bar = None


def duration(seconds: float) -> str:
    """Returns a time to wait as people say it: in seconds, minutes or hours."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def line(console: Console, text: str, *, style: str | None = None) -> None:
    """Prints a line as it is: no markup, no colours of numbers, nothing broken at the width of the terminal."""
    console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)


class ConsoleNarrator:
    """A progress bar on a terminal; in a log file one line every `seconds` and one per finished phase.

    `phases` is how many phases the whole run has: the time left is that of the phase on the bar and in the lines, and,
    where a phase ends, of the run, judged by what an iteration has cost so far.
    """

    def __init__(self, *, phases: int, seconds: float, console: Console | None = None) -> None:
        self.console = console or get_console()
        self.phases, self.seconds = phases, seconds
        self._finished, self._started = 0, time.monotonic()
        self._meter: Meter | None = None

    def begin(self, title: str, total: int) -> None:
        self._meter = Meter(title, total=total, seconds=self.seconds, console=self.console)

    def advance(self, note: str = "", steps: int = 1) -> None:
        if self._meter:
            self._meter.advance(note, steps)

    def end(self, summary: str = "") -> None:
        meter, self._meter = self._meter, None
        if meter is None:
            return
        meter.close()
        self._finished += 1
        left = (time.monotonic() - self._started) / self._finished * max(self.phases - self._finished, 0)
        self.say(f"{meter.title}: {summary}  ({meter.took():.0f} s; about {left / 60:.0f} min left)")

    def say(self, text: str) -> None:
        line(self.console, text)
