"""The pictures of a run. Colours are Okabe and Ito's, told apart by colour-blind readers, and every line has a marker.

Figures are drawn on matplotlib's Agg canvas without global state; labels are never parsed as formulas.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, TypeVar

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from evaluation.metrics import Scores, interval
from experiments.reporting import outline
from experiments.reporting.data import Round, Row, Run, band
from rzero.escaping import terminal_text

BLUE, ORANGE, GREEN, RED, PURPLE, SKY, GREY = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
    "#777777",
)
COLOURS = (BLUE, ORANGE, GREEN, RED, PURPLE, SKY, "#000000", GREY)
MARKERS = "osD^vP*X"
Shown = TypeVar("Shown", Run, Sequence[Run])
STYLE: dict[Any, Any] = {
    "text.parse_math": False,
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "legend.frameon": False,
    "legend.fontsize": 9,
}


def save(draw: Callable[[Shown], Figure | None], shown: Shown, *, path: Path) -> bool:
    """Draw a run, or several, into a PNG at `path`; False, and no file, when there is nothing to show in it yet."""
    with matplotlib.rc_context(STYLE):
        figure = draw(shown)
        if figure is None:
            return False
        FigureCanvasAgg(figure)
        figure.savefig(path, dpi=110, metadata={"Software": None})
    return True


# ------------------------------------------------------------------------------------------------------------ accuracy


def accuracy(run: Run) -> Figure | None:
    """Left: averages by round, `overall` with its 95 % interval. Right: the mean of greedy and mean@k by benchmark."""
    if not run.evaluated:
        return None
    figure = Figure(figsize=(10.5, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    _averages(left, run.evaluated)
    _benchmarks(right, run.evaluated)
    for axes in (left, right):
        axes.set_ylabel("right answers (%)")
        _name_rounds(axes, run.evaluated)
    return figure


def _averages(axes: Axes, rounds: Sequence[Round]) -> None:
    x = [turn.iteration for turn in rounds]
    scores = [turn.scores for turn in rounds if turn.scores]
    rows = [score.table()["Overall AVG"] for score in scores]
    k = scores[0].k
    for column, label, colour, marker in (
        ("pass@k", f"pass@{k}", GREY, "v"),
        ("maj@k", f"maj@{k}", GREEN, "^"),
        ("greedy", "greedy", ORANGE, "s"),
        ("mean@k", f"mean@{k}", SKY, "D"),
    ):
        axes.plot(x, [row[column] for row in rows], color=colour, marker=marker, ms=5, lw=1.3, ls="--", label=label)
    overall = [score.overall for score in scores]
    bounds = [interval(score) for score in scores]
    below = [value - low for value, (low, _) in zip(overall, bounds, strict=True)]
    above = [high - value for value, (_, high) in zip(overall, bounds, strict=True)]
    axes.errorbar(x, overall, yerr=(below, above), color=BLUE, marker="o", lw=2.6, capsize=5, label="overall, 95 %")
    axes.set_title("Overall AVG by round")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))


def _benchmarks(axes: Axes, rounds: Sequence[Round]) -> None:
    for number, (name, group, values) in enumerate(_by_benchmark([turn.scores for turn in rounds if turn.scores])):
        axes.plot(
            [turn.iteration for turn in rounds],
            values,
            color=COLOURS[number % len(COLOURS)],
            marker=MARKERS[number % len(MARKERS)],
            ls="-" if group == "math" else "--",
            label=f"{name} ({group})",
        )
    axes.set_title("Benchmarks, greedy and mean@k averaged")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))


def _by_benchmark(scores: Sequence[Scores]) -> list[tuple[str, str, list[float]]]:
    tables = [score.table() for score in scores]
    return [
        (b.name, b.group, [(table[b.name]["greedy"] + table[b.name]["mean@k"]) / 2 for table in tables])
        for b in scores[0].benchmarks
    ]


def comparison(runs: Sequence[Run]) -> Figure | None:
    """`overall` by round, one line a run; the same recipe has the same colour whatever its seed."""
    shown = [run for run in runs if run.evaluated]
    if not shown:
        return None
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    axes = figure.subplots()
    recipes = list(dict.fromkeys(run.recipe for run in shown))
    for number, run in enumerate(shown):
        axes.plot(
            [turn.iteration for turn in run.evaluated],
            [turn.scores.overall for turn in run.evaluated if turn.scores],
            color=COLOURS[recipes.index(run.recipe) % len(COLOURS)],
            marker=MARKERS[number % len(MARKERS)],
            label=terminal_text(f"{run.name}, seed {run.seed}"),
        )
    axes.set_title("Overall (mean of greedy and mean@k) by round")
    axes.set_ylabel("right answers (%)")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    _name_rounds(axes, max((run.evaluated for run in shown), key=len))
    return figure


def ablation(runs: Sequence[Run]) -> Figure | None:
    """`overall` after the last evaluated round, one bar a recipe, a dot a seed; None when all are of one recipe."""
    shown = [run for run in runs if run.done]
    names = dict(zip((run.recipe for run in shown), outline.labels(shown), strict=True))
    recipes: dict[str, list[Run]] = {}
    for run in shown:
        recipes.setdefault(run.recipe, []).append(run)
    if len(recipes) < 2:
        return None
    figure = Figure(figsize=(9, 1.2 + 0.5 * len(recipes)), layout="constrained")
    axes = figure.subplots()
    for place, group in enumerate(recipes.values()):
        values = [run.evaluated[-1].scores.overall for run in group]  # type: ignore[union-attr]
        axes.barh(place, fmean(values), color=COLOURS[place % len(COLOURS)], alpha=0.75, height=0.6)
        axes.plot(values, [place] * len(values), "o", color="#1d2430", ms=4)
    axes.set_yticks(range(len(recipes)), [_beside_a_bar(names[recipe]) for recipe in recipes])
    axes.invert_yaxis()
    axes.set_title("Overall of the last round: mean of the runs of a recipe, a dot a run")
    axes.set_xlabel("right answers (%)")
    axes.grid(axis="y", visible=False)
    return figure


def _beside_a_bar(name: str, *, chars: int = 48) -> str:
    shown = terminal_text(name)
    return shown if len(shown) <= chars else shown[: chars - 1] + "…"


# ------------------------------------------------------------------------------------------------------------ training


def rewards(run: Run) -> Figure | None:
    """Mean reward of each training step, both roles, the rounds shaded in turn."""
    return _by_role(run, (("reward", "mean reward"),))


def training(run: Run) -> Figure | None:
    """KL to the weights at the start of the phase, and response length, of both roles."""
    return _by_role(run, (("kl", "KL (nats per token)"), ("completions/mean_length", "length (tokens)")))


def _by_role(run: Run, measures: Sequence[tuple[str, str]]) -> Figure | None:
    roles = [role for role in ("challenger", "solver") if any(_steps(turn, role) for turn in run.trained)]
    if not roles:
        return None
    figure = Figure(figsize=(10.5, 2.6 * len(measures)), layout="constrained")
    grid = figure.subplots(len(measures), len(roles), squeeze=False)
    for line, (metric, label) in enumerate(measures):
        for column, role in enumerate(roles):
            axes = grid[line][column]
            _curve(axes, run, role=role, metric=metric)
            axes.set_ylabel(label)
            axes.set_xlabel(f"{role.title()} training step")
            if line == 0:
                axes.set_title(role.title(), pad=18)
    return figure


def _curve(axes: Axes, run: Run, *, role: str, metric: str) -> None:
    colour = ORANGE if role == "challenger" else BLUE
    start = 0
    for turn in run.trained:
        rows = _steps(turn, role)
        if not rows:
            continue
        x = range(start + 1, start + len(rows) + 1)
        values = [_number(row.get(f"{role}/{metric}")) for row in rows]
        axes.plot(x, values, color=colour, marker="o", ms=3.5 if len(rows) < 60 else 0, lw=1.6)
        axes.axvspan(start + 0.5, start + len(rows) + 0.5, color="#000000", alpha=0.05 * (turn.iteration % 2), lw=0)
        axes.text(
            start + 0.5 + len(rows) / 2,
            1.01,
            turn.name,
            transform=axes.get_xaxis_transform(),
            ha="center",
            va="bottom",
            fontsize=9,
            color="#555555",
        )
        start += len(rows)
    axes.set_xlim(0.5, start + 0.5)
    axes.margins(y=0.12)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _steps(turn: Round, role: str) -> Sequence[Row]:
    return turn.challenger if role == "challenger" else turn.solver


# ----------------------------------------------------------------------------------------------------------- questions


def agreement(run: Run) -> Figure | None:
    """How many of the Solver's votes the most frequent answer got, one panel a round, the band shaded."""
    shown = [turn for turn in run.trained if any(question.vote for question in turn.questions)]
    if not shown:
        return None
    columns = min(3, len(shown))
    lines = -(-len(shown) // columns)
    figure = Figure(figsize=(max(5.0, 3.5 * columns), 3.1 * lines), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False, sharey=True)
    panels = [panel for line in grid for panel in line]
    highest = [_votes(panel, turn, shaded=band(run.config)) for panel, turn in zip(panels, shown, strict=False)]
    for panel in panels[len(shown) :]:
        panel.set_visible(False)
    for line in grid:
        line[0].set_ylabel("questions")
    panels[0].set_ylim(0, 1.08 * max(highest))
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=len(names))
    return figure


def _votes(axes: Axes, turn: Round, *, shaded: tuple[float, float] | None) -> int:
    """Bars at the agreements that occur, kept questions below, dropped ones on top; returns the highest bar."""
    kept = Counter(round(q.vote.agreement, 4) for q in turn.questions if q.vote and q.kept)
    dropped = Counter(round(q.vote.agreement, 4) for q in turn.questions if q.vote and not q.kept)
    votes = max(q.vote.divisor for q in turn.questions if q.vote)
    width = 0.8 / max(votes, 1)
    if shaded:
        axes.axvspan(
            max(shaded[0], 0),
            min(shaded[1], 1),
            color=GREEN,
            alpha=0.13,
            lw=0,
            label=f"band {shaded[0]:g} to {shaded[1]:g}",
        )
    x = sorted({*kept, *dropped})
    below = [kept[value] for value in x]
    axes.bar(x, below, width=width, color=BLUE, label="kept")
    above = [dropped[value] for value in x]
    axes.bar(x, above, bottom=below, width=width, color="#c8c8c8", label="dropped")
    axes.set_title(f"{turn.name}: {sum(below)} kept")
    axes.set_xlabel(f"share of {votes} votes for the top answer")
    axes.set_xlim(-0.05, 1.05)
    axes.grid(axis="x", visible=False)
    return max(low + high for low, high in zip(below, above, strict=True))


def questions(run: Run) -> Figure | None:
    """Left: how many steps the solution of a well-posed question takes. Right: how often the label is the true answer.

    Both are the oracle's measurements of a round's questions; a run without an oracle has no such picture.
    """
    shown = [turn for turn in run.trained if "audit/level" in turn.curriculum]
    if not shown:
        return None
    figure = Figure(figsize=(10.5, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    _measured(left, shown, "audit/level", label="posed", colour=GREY, marker="s")
    _measured(left, shown, "audit/level_kept", label="kept", colour=BLUE, marker="o")
    left.set_title("Question difficulty")
    left.set_ylabel("solution steps (mean)")
    left.set_ylim(0, 1.15 * left.get_ylim()[1])
    _measured(right, shown, "audit/well_posed", label="well-posed", colour=GREY, marker="s", factor=100)
    _measured(right, shown, "audit/label_accuracy", label="label right, posed", colour=SKY, marker="D", factor=100)
    _measured(right, shown, "audit/label_accuracy_kept", label="label right, kept", colour=BLUE, marker="o", factor=100)
    right.set_title("Pseudo-label accuracy")
    right.set_ylabel("share of questions (%)")
    right.set_ylim(0, 105)
    for axes in (left, right):
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
        _name_rounds(axes, shown)
    return figure


def _measured(
    axes: Axes, rounds: Sequence[Round], metric: str, *, label: str, colour: str, marker: str, factor: float = 1.0
) -> None:
    values = [factor * _number(turn.curriculum.get(metric)) for turn in rounds]
    axes.plot([turn.iteration for turn in rounds], values, color=colour, marker=marker, lw=1.8, label=label)


def _name_rounds(axes: Axes, rounds: Sequence[Round]) -> None:
    axes.set_xticks([turn.iteration for turn in rounds], [turn.name for turn in rounds])
    axes.set_xlim(rounds[0].iteration - 0.3, rounds[-1].iteration + 0.3)
    axes.grid(axis="x", visible=False)


def _number(value: float | None) -> float:
    """A gap in the line where a number is missing or was not finite."""
    return float("nan") if value is None else value
