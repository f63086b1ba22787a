"""Live progress: which iteration, which phase, which step of how many, what it looks like, how long it will take."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Protocol, Self

from rich import get_console
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn


class Narrator(Protocol):
    """Told what happens, in order: `begin` a phase, `advance` it, `end` it; `say` something that should stay.

    `now`: what is under way within a step, until the next one is told. `close`: nothing more comes of a phase that did
    not end.
    """

    def begin(self, title: str, total: int) -> None: ...

    def advance(self, note: str = "", steps: int = 1) -> None: ...

    def now(self, part: str) -> None: ...

    def end(self, summary: str = "") -> None: ...

    def say(self, text: str) -> None: ...

    def close(self) -> None: ...


class Silent:
    """Says nothing."""

    def begin(self, title: str, total: int) -> None: ...

    def advance(self, note: str = "", steps: int = 1) -> None: ...

    def now(self, part: str) -> None: ...

    def end(self, summary: str = "") -> None: ...

    def say(self, text: str) -> None: ...

    def close(self) -> None: ...


class Part:
    """The `Progress` of a part of a step: how many of how many, tokens per second, time left.

    what: the part and what is counted, such as `drawing, responses`. tell: is given a text now, and whenever some time
    has passed since the last one.
    """

    EVERY = 0.2
    """Seconds between two texts: engines report every token."""

    def __init__(self, what: str, *, tell: Callable[[str], object]) -> None:
        self._what, self._tell = what, tell
        self._started = time.monotonic()
        self._told = -self.EVERY
        tell(what)

    def __call__(self, done: int, total: int, tokens: int = 0) -> None:
        now = time.monotonic()
        if now - self._told < self.EVERY and done < total:
            return
        self._told = now
        took = now - self._started
        said = [f"{self._what} {done}/{total}"]
        if tokens and took > 0:
            said.append(f"{tokens / took:.0f} tokens/s")
        if 0 < done < total:
            said.append(f"{duration(took / done * (total - done))} left")
        self._tell(", ".join(said))


class Beat:
    """Calls `tick` every `seconds` while the context lasts, from a thread: the work itself may be one long call."""

    def __init__(self, tick: Callable[[], object], *, seconds: float) -> None:
        self._tick, self._seconds = tick, seconds
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(self._seconds):
            self._tick()


class Meter:
    """The progress of one piece of work and the time left: a bar on a terminal; in a log a line every `seconds`.

    It is shown until `close`; a terminal keeps nothing of it. Whoever wants lines while nothing is reported calls
    `beat` now and then, from any thread.
    """

    def __init__(self, title: str, *, total: int, seconds: float, console: Console) -> None:
        self.title, self.total, self.done = title, max(total, 1), 0
        self.seconds, self.console = seconds, console
        self._started = self._counted = self._last_line = self._last_news = time.monotonic()
        self._note = self._part = ""
        self._lock = threading.Lock()
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
        self.count(done)
        self._note, self._part = note, ""
        self._show()

    def count(self, done: int) -> None:
        """The same, to be shown with what is said next: the part that is under way goes on."""
        self.done = done
        self._counted = time.monotonic()

    def now(self, part: str) -> None:
        """Says which part of the next one is under way."""
        self._part = part
        self._show()

    def beat(self) -> None:
        """Repeats what was said last, and how long ago, where a line is due."""
        age = time.monotonic() - self._last_news
        self._line_if_due(f"(for {duration(age)})" if age > self.seconds else "")

    def _show(self) -> None:
        self._last_news = time.monotonic()
        if self._bar:
            said = "  ".join(filter(None, (self._note, self._part)))
            self._bar.update(self._bar.task_ids[0], completed=self.done, note=escape(said))
        else:
            self._line_if_due()

    def _line_if_due(self, age: str = "") -> None:
        with self._lock:
            if time.monotonic() - self._last_line <= self.seconds:
                return
            self._last_line = time.monotonic()
        parts = (f"{self.title}  {self.done}/{self.total}", self._left(), self._note, self._part, age)
        line(self.console, "  ".join(filter(None, parts)))

    def _left(self) -> str:
        if not 0 < self.done < self.total:
            return ""
        each, waited = (self._counted - self._started) / self.done, time.monotonic() - self._counted
        return f"{duration(each * (self.total - self.done) - min(waited, each))} left"

    def took(self) -> float:
        """Returns the seconds since it began."""
        return time.monotonic() - self._started

    def close(self) -> None:
        """Takes the bar away."""
        if self._bar:
            self._bar.stop()
            self._bar = None


@contextmanager
def shown(meter: Meter) -> Iterator[Meter]:
    """Shows a meter while the context lasts, in a log also while nothing is reported."""
    try:
        if meter.console.is_terminal or meter.seconds <= 0:
            yield meter
        else:
            # a line may be due right after a look, which the next look finds
            with Beat(meter.beat, seconds=meter.seconds / 3):
                yield meter
    finally:
        meter.close()


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

    A line comes even while nothing is reported, so that a long call is told from one that hangs.

    `phases` is how many phases the whole run has: the time left is that of the phase on the bar and in the lines, and,
    where a phase ends, of the run, judged by what an iteration has cost so far.
    """

    def __init__(self, *, phases: int, seconds: float, console: Console | None = None) -> None:
        self.console = console or get_console()
        self.phases, self.seconds = phases, seconds
        self._finished, self._started = 0, time.monotonic()
        self._meter: Meter | None = None
        self._shown = ExitStack()

    def begin(self, title: str, total: int) -> None:
        self.close()
        self._meter = Meter(title, total=total, seconds=self.seconds, console=self.console)
        self._shown.enter_context(shown(self._meter))

    def advance(self, note: str = "", steps: int = 1) -> None:
        if self._meter:
            self._meter.advance(note, steps)

    def now(self, part: str) -> None:
        if self._meter:
            self._meter.now(part)

    def end(self, summary: str = "") -> None:
        meter = self._meter
        self.close()
        if meter is None:
            return
        self._finished += 1
        left = (time.monotonic() - self._started) / self._finished * max(self.phases - self._finished, 0)
        self.say(f"{meter.title}: {summary}  ({meter.took():.0f} s; about {left / 60:.0f} min left)")

    def say(self, text: str) -> None:
        line(self.console, text)

    def close(self) -> None:
        self._meter = None
        self._shown.close()
