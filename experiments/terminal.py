"""Output to a terminal, a pipe or a log: whole tables, and the run's own progress without that of libraries."""

from __future__ import annotations

import logging

from rich.console import Console
from rich.table import Table

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


def quiet_libraries() -> None:
    """Silence the start-up lines, tips and weight-loading bars of libraries: they would bury the run's progress."""
    from transformers.utils import logging as transformers_logging

    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    transformers_logging.disable_progress_bar()
