"""The study in one picture and one table: score, labels and kinds of questions by round, for the arms that tell it.

python -m experiments.reproduce.past_collapse figure        # writes figure.png and the tables of docs/past_collapse.md
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean

from matplotlib.figure import Figure

from evaluation.seeds import over_seeds
from experiments import readme
from experiments.reporting.figures import BLUE, GREEN, ORANGE, Line, Point, lines_by_iteration, save
from experiments.reporting.markdown import markdown_table
from experiments.reproduce.past_collapse import goals
from experiments.reproduce.past_collapse.arms import CONFIRM, PARTS, WINNER, Part
from experiments.reproduce.past_collapse.findings import findings
from experiments.reproduce.past_collapse.keeping import ROOT, Kept
from experiments.reproduce.past_collapse.watched import FAMILIES, LABELS, Runs, kept
from experiments.reproduce.study import mean_text

TOLD = {
    "rzero": ("R-Zero", ORANGE, "s"),
    WINNER: ("sustained", BLUE, "o"),
    "labelled": ("labelled (ceiling)", GREEN, "^"),
}
"""Arms of the picture: their labels, colours and markers."""

SHOWN = (0, 1, 3, 5, 8, 10, 15, 20)
"""Rounds that have a column in a table."""

Measure = Callable[[Kept], Sequence[float]]
"""One value a round; nan where there is none."""

PANELS: Sequence[tuple[str, Measure, bool]] = (
    ("overall (%)", lambda run: run.overall, True),
    ("kept labels that are right", lambda run: _metric(run, LABELS), False),
    ("effective families posed", lambda run: _metric(run, FAMILIES), False),
)
"""What each panel shows, and whether the ceiling, which poses nothing, is in it."""


def _metric(run: Kept, name: str) -> list[float]:
    return [float("nan"), *(metrics.get(name, float("nan")) for metrics in run.rounds[1:])]


def draw(runs: Runs) -> Figure:
    """Draws score, label accuracy and families by round, each the mean over kept seeds with its 95 % interval."""
    figure = Figure(figsize=(9, 8.4), layout="constrained")
    shares = {"height_ratios": [2.2, 1, 1]}
    for axes, (ylabel, measure, ceiling) in zip(figure.subplots(3, 1, gridspec_kw=shares), PANELS, strict=True):
        shown = [name for name in TOLD if name in runs and (ceiling or name != "labelled")]
        lines_by_iteration(axes, [_line(name, list(runs[name].values()), measure) for name in shown], ylabel=ylabel)
    return figure


def _line(name: str, runs: Sequence[Kept], measure: Measure) -> Line:
    label, colour, marker = TOLD[name]
    estimates = [over_seeds(values) for values in zip(*(measure(run) for run in runs), strict=True)]
    return Line(
        label=f"{label}, {len(runs)} seed{'s' * (len(runs) > 1)}",
        points=[
            Point(iteration=number, value=estimate.mean, low=estimate.low, high=estimate.high)
            for number, estimate in enumerate(estimates)
        ],
        colour=colour,
        marker=marker,
        dashed=name == "labelled",
    )


def table(part: Part, runs: Runs) -> str:
    """Returns a part as a table: an arm a line, what is there of its seeds; a sentence where nothing is kept."""
    if not runs:
        return f"No run of `{part.name}` is kept yet."
    rounds = [number for number in SHOWN if number <= part.rounds]
    header = ["arm", "seeds", *(str(number) if number else "base" for number in rounds), "labels", "families", "9-16"]
    return markdown_table(header, [_row(name, list(group.values()), rounds) for name, group in runs.items()])


def _row(name: str, runs: Sequence[Kept], rounds: Sequence[int]) -> list[str]:
    last = runs[0].rounds[-1]
    return [
        f"`{name}`",
        str(len(runs)),
        *(mean_text([run.overall[number] for run in runs]) for number in rounds),
        *(
            f"{fmean(run.rounds[-1].get(metric, 0.0) for run in runs):.2f}" if metric in last else "-"
            for metric in (LABELS, FAMILIES)
        ),
        mean_text([run.hard[max(run.hard)] for run in runs]),
    ]


def write() -> list[Path]:
    """Writes the tables of docs/past_collapse.md and, where there are runs for it, the picture; returns both."""
    found: Mapping[str, Runs] = {part.name: kept(part) for part in PARTS.values()}
    for part in PARTS.values():
        readme.update(f"past_collapse_{part.name}", table(part, found[part.name]))
    readme.update("past_collapse_goals", goals.table(findings(found)))
    confirmed, drawn = found[CONFIRM.name], ROOT / "figure.png"
    if not confirmed.keys() & TOLD.keys():
        return [readme.PAST_COLLAPSE]
    save(lambda: draw(confirmed), drawn)
    return [readme.PAST_COLLAPSE, drawn]
