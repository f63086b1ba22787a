"""Tables lose nothing, wherever they are printed; long work shows how far it is; libraries do not show it instead."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console
from rich.table import Table

from experiments.evaluate import Rows
from experiments.terminal import bars_as_ours, print_table, progress, quiet_libraries, waiting
from rzero.runs import progress as clockwork
from rzero.runs.progress import Meter, duration

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


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time as progress sees it, to be set."""
    now = [1000.0]
    monkeypatch.setattr(clockwork.time, "monotonic", lambda: now[0])
    return now


def console(written: io.StringIO, *, terminal: bool) -> Console:
    return Console(file=written, force_terminal=terminal, width=100, color_system=None)


def test_a_log_has_a_line_now_and_then_with_the_time_left(clock: list[float]) -> None:
    written = io.StringIO()
    with progress("rows", total=400, console=console(written, terminal=False), seconds=15) as meter:
        for _ in range(4):
            clock[0] += 8
            meter.advance("[math] amc23", 10)
    assert written.getvalue() == "rows  20/400  5 min left  [math] amc23\nrows  40/400  5 min left  [math] amc23\n"


def test_a_terminal_has_a_bar_and_keeps_nothing_of_it() -> None:
    written = io.StringIO()
    with progress("rows", total=4, console=console(written, terminal=True)) as meter:
        meter.advance("[x]")
        assert meter._bar is not None
        meter._bar.refresh()
    for word in ("rows", "1/4", "[x]"):
        assert word in written.getvalue()
    with waiting("reading [the] benchmarks", console=console(written, terminal=True)):
        pass
    log = io.StringIO()
    with waiting("reading [the] benchmarks", console=console(log, terminal=False)):
        pass
    assert log.getvalue() == "reading [the] benchmarks\n"


@pytest.mark.parametrize(("seconds", "text"), [(5.4, "5 s"), (100, "2 min"), (89 * 60, "89 min"), (10000, "2.8 h")])
def test_times_are_said_as_people_say_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_rows_of_a_suite_are_counted_over_benchmarks_and_decodings() -> None:
    """Two benchmarks: 2 greedy and 8 sampled responses, then 3; of the first everything is drawn."""
    meter = Meter("model", total=13, seconds=1e9, console=console(io.StringIO(), terminal=False))
    rows, seen, parts = Rows(meter, [10, 3]), [], {}
    for what, done, total in (("a greedy", 1, 2), ("a greedy", 2, 2), ("a sampled", 4, 8), ("a sampled", 8, 8)):
        if what not in parts:
            parts[what] = rows.watch(what)
        parts[what](done, total, 0)
        seen.append(meter.done)
    rows.benchmark(1, 2)
    rows.watch("b greedy")(1, 3, 0)
    seen.append(meter.done)
    rows.benchmark(2, 2)
    assert [*seen, meter.done] == [1, 2, 6, 10, 11, 13]


def test_the_time_left_of_a_suite_is_that_of_all_responses(clock: list[float]) -> None:
    """While they are drawn, too: not only where a benchmark ends."""
    log = io.StringIO()
    meter = Meter("model", total=13, seconds=5, console=console(log, terminal=False))
    part = Rows(meter, [10, 3]).watch("a greedy")
    for done in (1, 2):
        clock[0] += 20
        part(done, 10, 0)
    assert log.getvalue().splitlines() == [
        "model  1/13  4 min left  a greedy 1/10, 3 min left",
        "model  2/13  4 min left  a greedy 2/10, 3 min left",
    ]


def test_bars_of_transformers_are_ours(capsys: pytest.CaptureFixture[str], clock: list[float]) -> None:
    """In a log a line, and only of what takes its time."""
    from transformers import modeling_gguf_pytorch_utils as conversion
    from transformers.utils import logging as transformers_logging

    before, written = transformers_logging._tqdm_hook, io.StringIO()
    log = console(written, terminal=False)
    try:
        quiet_libraries(log)
        for number in transformers_logging.tqdm(range(4), desc="Loading weights"):
            clock[0] += 10
            assert number < 4
        with bars_as_ours(conversion, console=log), conversion.tqdm([1, 2], desc="Converting") as bar:
            clock[0] += 20
            bar.update(1)
            bar.set_postfix(x=1)
    finally:
        transformers_logging.set_tqdm_hook(before)
    assert conversion.tqdm.__module__.startswith("tqdm")
    lines = written.getvalue().splitlines()
    assert lines == ["loading weights  2/4  20 s left", "loading weights  4/4", "converting  1/2  20 s left"]
    assert capsys.readouterr() == ("", "")
