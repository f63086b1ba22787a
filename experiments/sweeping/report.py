"""The report of a sweep: report.md, summary.json and two pictures in its directory."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from experiments.reporting import html, markdown
from experiments.reporting.content import NOTHING, Cell, Picture, Section, Table
from experiments.reporting.plots import COLOURS, GREY, MARKERS, STYLE
from experiments.sweeping.jobs import Job
from experiments.sweeping.summary import Arm, Difference
from experiments.terminal import print_table
from rzero.durable import write_atomically
from rzero.escaping import terminal_text


def write_sweep_report(sweep: Path, jobs: Sequence[Job], found: Sequence[Arm]) -> Path:
    """Write it and return the path of report.md."""
    write_atomically(sweep / "summary.json", json.dumps(figures(found, jobs), indent=1).encode())
    sections = [_arms(found, pictures=_draw(sweep, found)), _jobs(jobs)]
    title = f"Sweep {sweep.parent.name}/{sweep.name}"
    write_atomically(sweep / "report.md", markdown.render(title=title, sections=sections).encode())
    write_atomically(sweep / "report.html", html.render(title=title, sections=sections, pictures=sweep).encode())
    return sweep / "report.md"


def figures(found: Sequence[Arm], jobs: Sequence[Job]) -> dict[str, Any]:
    """The table as plain data."""
    return {
        "arms": [
            {
                "name": arm.name,
                "seeds": [run.seed for run in arm.runs],
                "runs": [str(run.path) for run in arm.runs],
                "overall": [asdict(value) if (value := arm.overall(i)) else None for i in range(arm.rounds + 1)],
                "gain": asdict(arm.gain()),
                "against_first": _plain(arm.against(found[0])) if arm is not found[0] else None,
            }
            for arm in found
        ],
        "jobs": [asdict(job) for job in jobs],
    }


def _plain(difference: Difference | None) -> dict[str, Any] | None:
    return asdict(difference) if difference else None


def _rows(found: Sequence[Arm]) -> list[list[str]]:
    rows = []
    for arm in found:
        base, final, against = arm.overall(0), arm.overall(arm.rounds), arm.against(found[0])
        assert base is not None
        assert final is not None
        reference = "the reference" if arm is found[0] else against.text if against else NOTHING
        rows.append([arm.name, str(len(arm.runs)), f"{base.mean:.2f}", f"{final.mean:.2f}", arm.gain().text, reference])
    return rows


def show(found: Sequence[Arm]) -> None:
    """The table on the terminal."""
    table = RichTable(title="overall, percent; points with their 95 % interval")
    for column in ("arm", "seeds", "base", "last round", "gain over the base", "against the first arm"):
        table.add_column(column, justify="left" if column == "arm" else "right")
    for row in _rows(found):
        table.add_row(*(escape(terminal_text(text)) for text in row))
    print_table(Console(), table)


def _arms(found: Sequence[Arm], *, pictures: Sequence[Picture]) -> Section:
    if not found:
        return Section(title="Result", paragraphs=("No job of this sweep has finished a round yet.",))
    table = Table(
        heads=(
            ("", ("arm", "seeds")),
            ("overall (%)", ("base", "last round")),
            ("points [95 % interval]", ("gain over the base", f"against {found[0].name}")),
        ),
        rows=[[Cell(text=text) for text in row] for row in _rows(found)],
        caption="Means over seeds. Intervals are Student's t over seeds, against the first arm over pairs of the same "
        "seed; with a single seed they are a paired bootstrap over items and say nothing about other seeds.",
    )
    return Section(title="Result", tables=(table,), pictures=pictures)


def _jobs(jobs: Sequence[Job]) -> Section:
    rows = [
        [Cell(text=text) for text in (str(job.number), job.name, job.state, job.directory or NOTHING, job.message)]
        for job in jobs
    ]
    heads = (("", ("job", "overrides", "state", "run", "message")),)
    return Section(title="Jobs", tables=(Table(heads=heads, rows=rows, numeric=False),))


# ------------------------------------------------------------------------------------------------------------ pictures


def _draw(sweep: Path, found: Sequence[Arm]) -> list[Picture]:
    if not found:
        return []
    with matplotlib.rc_context(STYLE):
        for name, figure in (("arms", gains(found)), ("rounds", by_round(found))):
            FigureCanvasAgg(figure)
            figure.savefig(sweep / f"{name}.png", dpi=110, metadata={"Software": None})
    return [
        Picture(file="arms.png", alt="Gain of each arm over the base model with its 95 % interval"),
        Picture(file="rounds.png", alt="Overall by round, one line an arm, the 95 % interval over seeds shaded"),
    ]


def gains(found: Sequence[Arm]) -> Figure:
    """One line an arm, the first on top: its gain in points and the interval."""
    figure = Figure(figsize=(9, 1.4 + 0.5 * len(found)), layout="constrained")
    axes = figure.subplots()
    for place, arm in enumerate(found):
        change = arm.gain()
        bounds = [[change.points - change.low], [change.high - change.points]]
        axes.errorbar(
            [change.points],
            [place],
            xerr=bounds,
            color=COLOURS[place % len(COLOURS)],
            marker=MARKERS[place % len(MARKERS)],
            capsize=5,
            lw=2,
        )
    axes.axvline(0.0, color=GREY, lw=1)
    axes.set_yticks(range(len(found)), [terminal_text(arm.name) for arm in found])
    axes.invert_yaxis()
    axes.set_xlabel("gain over the base model (points), 95 % interval")
    return figure


def by_round(found: Sequence[Arm]) -> Figure:
    """`overall` after each round: mean over seeds, and the interval where there are several."""
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    axes = figure.subplots()
    for place, arm in enumerate(found):
        values = [(i, value) for i in range(arm.rounds + 1) if (value := arm.overall(i))]
        colour, x = COLOURS[place % len(COLOURS)], [i for i, _ in values]
        axes.plot(
            x,
            [value.mean for _, value in values],
            color=colour,
            marker=MARKERS[place % len(MARKERS)],
            label=terminal_text(f"{arm.name} ({len(arm.runs)})"),
        )
        lows = [value.mean if value.low is None else value.low for _, value in values]
        highs = [value.mean if value.high is None else value.high for _, value in values]
        axes.fill_between(x, lows, highs, color=colour, alpha=0.15, lw=0)
    longest = max(arm.rounds for arm in found)
    axes.set_xticks(range(longest + 1), ["base", *(f"round {i}" for i in range(1, longest + 1))])
    axes.set_ylabel("overall (%)")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), title="arm (seeds)")
    return figure
