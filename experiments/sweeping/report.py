"""The report of a sweep: report.md, summary.json and two pictures in its directory."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from matplotlib.figure import Figure
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from experiments.reporting import html, markdown
from experiments.reporting.content import NOTHING, Cell, Picture, Section, Table
from experiments.reporting.figures import Bar, Line, Point, bars, by_iteration, save
from experiments.sweeping.jobs import Job
from experiments.sweeping.summary import Difference, SweptArm
from experiments.terminal import print_table
from rzero.durable import write_atomically
from rzero.escaping import terminal_text
from rzero.types import Json


def write_sweep_report(sweep: Path, jobs: Sequence[Job], found: Sequence[SweptArm]) -> Path:
    """Write it and return the path of report.md."""
    write_atomically(sweep / "summary.json", json.dumps(figures(found, jobs), indent=1).encode())
    sections = [_arms(found, pictures=_draw(sweep, found)), _jobs(jobs)]
    title = f"Sweep {sweep.parent.name}/{sweep.name}"
    write_atomically(sweep / "report.md", markdown.render(title=title, sections=sections).encode())
    write_atomically(sweep / "report.html", html.render(title=title, sections=sections, pictures=sweep).encode())
    return sweep / "report.md"


def figures(found: Sequence[SweptArm], jobs: Sequence[Job]) -> Json:
    """Return the table as plain data."""
    return {
        "arms": [
            {
                "name": arm.name,
                "seeds": [run.seed for run in arm.runs],
                "runs": [str(run.path) for run in arm.runs],
                "overall": [asdict(value) if (value := arm.overall(i)) else None for i in range(arm.iterations + 1)],
                "gain": asdict(arm.gain()),
                "against_first": _plain(arm.against(found[0])) if arm is not found[0] else None,
            }
            for arm in found
        ],
        "jobs": [asdict(job) for job in jobs],
    }


def _plain(difference: Difference | None) -> Json | None:
    return asdict(difference) if difference else None


def _rows(found: Sequence[SweptArm]) -> list[list[str]]:
    rows = []
    for arm in found:
        base, final, against = arm.overall(0), arm.overall(arm.iterations), arm.against(found[0])
        assert base is not None
        assert final is not None
        reference = "the reference" if arm is found[0] else against.text if against else NOTHING
        rows.append([arm.name, str(len(arm.runs)), f"{base.mean:.2f}", f"{final.mean:.2f}", arm.gain().text, reference])
    return rows


def show(found: Sequence[SweptArm]) -> None:
    """Print the table on the terminal."""
    table = RichTable(title="overall, percent; points with their 95 % interval")
    for column in ("arm", "seeds", "base", "last iteration", "gain over the base", "against the first arm"):
        table.add_column(column, justify="left" if column == "arm" else "right")
    for row in _rows(found):
        table.add_row(*(escape(terminal_text(text)) for text in row))
    print_table(Console(), table)


def _arms(found: Sequence[SweptArm], *, pictures: Sequence[Picture]) -> Section:
    if not found:
        return Section(id="result", title="Result", paragraphs=("No job of this sweep has finished an iteration yet.",))
    table = Table(
        heads=(
            ("", ("arm", "seeds")),
            ("overall (%)", ("base", "last iteration")),
            ("points [95 % interval]", ("gain over the base", f"against {found[0].name}")),
        ),
        rows=[[Cell(text=text) for text in row] for row in _rows(found)],
        caption="Means over seeds. Intervals are Student's t over seeds, against the first arm over pairs of the same "
        "seed; with a single seed they are a paired bootstrap over items and say nothing about other seeds.",
    )
    return Section(id="result", title="Result", tables=(table,), pictures=pictures)


def _jobs(jobs: Sequence[Job]) -> Section:
    rows = [
        [Cell(text=text) for text in (str(job.number), job.name, job.state, job.directory or NOTHING, job.message)]
        for job in jobs
    ]
    heads = (("", ("job", "overrides", "state", "run", "message")),)
    return Section(id="jobs", title="Jobs", tables=(Table(heads=heads, rows=rows, numeric=False),))


# ------------------------------------------------------------------------------------------------------------ pictures


def _draw(sweep: Path, found: Sequence[SweptArm]) -> list[Picture]:
    if not found:
        return []
    save(lambda: gains(found), sweep / "arms.png")
    save(lambda: overall(found), sweep / "iterations.png")
    return [
        Picture(file="arms.png", alt="Gain of each arm over the base model with its 95 % interval"),
        Picture(
            file="iterations.png", alt="Overall by iteration, one line an arm, the 95 % interval over seeds shaded"
        ),
    ]


def gains(found: Sequence[SweptArm]) -> Figure:
    """One bar an arm, the first on top: its gain in points and the interval."""
    groups = {}
    for arm in found:
        change = arm.gain()
        groups[arm.name] = [Bar(value=change.points, low=change.low, high=change.high)]
    return bars(groups, xlabel="gain over the base model (points), 95 % interval")


def overall(found: Sequence[SweptArm]) -> Figure:
    """`overall` after each iteration: mean over seeds, and the interval where there are several."""
    lines = []
    for arm in found:
        measured = [(number, arm.overall(number)) for number in range(arm.iterations + 1)]
        points = [Point(iteration=i, value=e.mean, low=e.low, high=e.high) for i, e in measured if e]
        lines.append(Line(label=f"{arm.name} ({len(arm.runs)})", points=points))
    return by_iteration(lines, ylabel="overall (%)", legend="arm (seeds)")
