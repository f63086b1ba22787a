"""Tables lose nothing, wherever they are printed."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console
from rich.table import Table

from experiments.terminal import print_table

NAME = "challenger_reward@challenger.reward=without_repetition"


@pytest.mark.parametrize("terminal", [True, False])
def test_long_names_are_whole(terminal: bool) -> None:
    written = io.StringIO()
    console = Console(file=written, force_terminal=terminal, width=60, color_system=None)
    table = Table("arm", *(f"round {i}" for i in range(6)))
    table.add_row(NAME, *("73.27" for _ in range(6)))
    print_table(console, table)
    lines = written.getvalue().splitlines()
    assert "…" not in written.getvalue()
    if terminal:
        assert max(map(len, lines)) <= 60
        assert "".join(re.split("[│┃]", line)[1].strip() for line in lines if line[0] in "│┃") == "arm" + NAME
    else:
        [row] = [line for line in lines if "73.27" in line]
        assert NAME in row
        assert row.count("73.27") == 6
