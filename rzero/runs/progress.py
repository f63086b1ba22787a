"""Live progress: which iteration, which phase, which step of how many, what it looks like, how long it will take."""

from __future__ import annotations

import time
from typing import Protocol

from rich.console import Console
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


class ConsoleNarrator:
    """A progress bar on a terminal; in a log file one line every `seconds` and one per finished phase.

    `phases` is how many phases the whole run has: the time left is that of the phase on the bar and, in the phase
    lines, of the run, judged by what an iteration has cost so far.
    """

    def __init__(self, *, phases: int, seconds: float, console: Console | None = None) -> None:
        self.console = console or Console()
        self.phases, self.seconds = phases, seconds
        self._finished, self._started = 0, time.monotonic()
        self._bar: Progress | None = None
        self._title, self._total, self._done = "", 0, 0
        self._phase_started = self._last_line = 0.0

    def begin(self, title: str, total: int) -> None:
        self._title, self._total, self._done = title, max(total, 1), 0
        self._phase_started = self._last_line = time.monotonic()
        if self.console.is_terminal:
            self._bar = Progress(
                SpinnerColumn(),
                TextColumn("[bold]{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=self.console,
                transient=True,
            )
            self._bar.add_task(title, total=self._total, note="")
            self._bar.start()

    def advance(self, note: str = "", steps: int = 1) -> None:
        self._done += steps
        if self._bar:
            self._bar.update(self._bar.task_ids[0], advance=steps, note=note)
        elif time.monotonic() - self._last_line > self.seconds:
            self._last_line = time.monotonic()
            self._print(f"{self._title}  {self._done}/{self._total}  {note}")

    def end(self, summary: str = "") -> None:
        if self._bar:
            self._bar.stop()
            self._bar = None
        self._finished += 1
        took = time.monotonic() - self._phase_started
        left = (time.monotonic() - self._started) / self._finished * max(self.phases - self._finished, 0)
        self._print(f"{self._title}: {summary}  ({took:.0f} s; about {left / 60:.0f} min left)")

    def say(self, text: str) -> None:
        self._print(text)

    def _print(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)
