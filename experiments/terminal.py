"""Output to a terminal, a pipe or a log: whole tables, and the run's own progress without that of libraries."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from functools import partial
from typing import Any, Self

from rich import get_console
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rzero.runs.progress import Beat, Meter, duration, line, shown
from rzero.types import Json

NO_LIMIT = 10_000  # columns


def print_table(console: Console, table: Table) -> None:
    """Print a table with nothing cut off.

    A narrow terminal gets long cells in several lines. A file or a pipe has no width (rich would take 80 columns and
    end names in dots): the console is made as wide as the table.
    """
    for column in table.columns:
        column.overflow = "fold"
    if not console.is_terminal:
        wanted = console.measure(table, options=console.options.update(max_width=NO_LIMIT)).maximum
        console.width = max(console.width, wanted)
    console.print(table)


SECONDS = 15.0
"""Between two lines of progress in a log."""


@contextmanager
def progress(title: str, *, total: int, console: Console | None = None, seconds: float = SECONDS) -> Iterator[Meter]:
    """Show, while the context lasts, how far a piece of work is and how long it will take."""
    with shown(Meter(title, total=total, seconds=seconds, console=console or get_console())) as meter:
        yield meter


@contextmanager
def waiting(title: str, *, console: Console | None = None) -> Iterator[None]:
    """Show, while the context lasts, that something is under way of which nothing can be counted."""
    console = console or get_console()
    if console.is_terminal:
        with console.status(escape(title)):
            yield
        return
    started = time.monotonic()
    line(console, title)
    with Beat(lambda: line(console, f"{title} (for {duration(time.monotonic() - started)})"), seconds=SECONDS):
        yield


def quiet_libraries(console: Console | None = None) -> None:
    """Silence the start-up lines and tips of libraries, and show their bars as our own.

    They would bury the progress of a run.
    """
    from transformers.utils import logging as transformers_logging

    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    transformers_logging.disable_progress_bar()
    transformers_logging.set_tqdm_hook(partial(_as_ours, console))


@contextmanager
def bars_as_ours(module: Any, *, console: Console | None = None) -> Iterator[None]:
    """Show the bars of a module that took `tqdm` for itself, and has no switch, as ours while the context lasts."""
    before = module.tqdm
    module.tqdm = lambda *args, **options: _as_ours(console, before, args, options)
    try:
        yield
    finally:
        module.tqdm = before


def _as_ours(console: Console | None, _: Callable[..., Any], args: tuple[Any, ...], options: Json) -> Relayed:
    items = args[0] if args else options.get("iterable", ())
    total = options.get("total") or (len(items) if isinstance(items, Sized) else 0)
    title = str(options.get("desc") or "loading").lower()
    return Relayed(items, Meter(title, total=total, seconds=SECONDS, console=console or get_console()))


class Relayed:
    """What a library takes for its own bar (tqdm's interface as far as it is used)."""

    def __init__(self, items: Iterable[Any], meter: Meter) -> None:
        self.items, self.meter = items, meter

    def __iter__(self) -> Iterator[Any]:
        try:
            for item in self.items:
                yield item
                self.meter.advance()
        finally:
            self.meter.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.meter.close()

    def update(self, n: int = 1) -> None:
        self.meter.advance(steps=n)

    def close(self) -> None:
        self.meter.close()

    def set_description(self, *_: object, **__: object) -> None: ...

    def set_postfix(self, *_: object, **__: object) -> None: ...
