"""The pictures of runs: what each of them shows, and when there is something to show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from evaluation.metrics import Scores, interval
from experiments.reporting import outline
from experiments.reporting.content import SectionId
from experiments.reporting.data import Iteration, Row, Run, band
from experiments.reporting.figures import (
    BLUE,
    COLOURS,
    GREEN,
    GREY,
    MARKERS,
    ORANGE,
    SKY,
    Bar,
    Line,
    Point,
    bars,
    by_iteration,
    lines_by_iteration,
)
from rzero.alarm import LABEL_ACCURACY

# ------------------------------------------------------------------------------------------------------------ accuracy


def accuracy(run: Run) -> Figure:
    """Left: averages by iteration, `overall` with its 95 % interval. Right: greedy and mean@k averaged by benchmark."""
    figure = Figure(figsize=(10.5, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    ylabel = "right answers (%)"
    lines_by_iteration(left, _averages(run), ylabel=ylabel, title="Overall AVG by iteration")
    lines_by_iteration(right, _benchmarks(run), ylabel=ylabel, title="Benchmarks, greedy and mean@k averaged")
    return figure


def _averages(run: Run) -> list[Line]:
    k = run.scores[0][1].k
    columns = (("pass@k", GREY, "v"), ("maj@k", GREEN, "^"), ("greedy", ORANGE, "s"), ("mean@k", SKY, "D"))
    lines = [
        Line(
            label=column.replace("@k", f"@{k}"),
            points=_points(run, partial(_average, column=column)),
            colour=colour,
            marker=marker,
            dashed=True,
        )
        for column, colour, marker in columns
    ]
    overall = []
    for number, scores in run.scores:
        low, high = interval(scores)
        overall.append(Point(iteration=number, value=scores.overall, low=low, high=high))
    return [*lines, Line(label="overall, 95 %", points=overall, colour=BLUE, marker="o")]


def _average(scores: Scores, *, column: str) -> float:
    return scores.table()["Overall AVG"][column]


def _points(run: Run, value: Callable[[Scores], float]) -> list[Point]:
    return [Point(iteration=number, value=value(scores)) for number, scores in run.scores]


def _benchmarks(run: Run) -> list[Line]:
    def mean(name: str) -> Callable[[Scores], float]:
        return lambda scores: fmean(scores.table()[name][column] for column in ("greedy", "mean@k"))

    return [
        Line(
            label=f"{benchmark.name} ({benchmark.group})",
            points=_points(run, mean(benchmark.name)),
            dashed=benchmark.group != "math",
        )
        for benchmark in run.scores[0][1].benchmarks
    ]


def comparison(runs: Sequence[Run]) -> Figure:
    """`overall` by iteration, one line a run; the same recipe has the same colour whatever its seed."""
    shown = [run for run in runs if run.scores]
    recipes = list(dict.fromkeys(run.recipe for run in shown))
    lines = [
        Line(
            label=f"{run.name}, seed {run.seed}",
            points=_points(run, lambda scores: scores.overall),
            colour=COLOURS[recipes.index(run.recipe) % len(COLOURS)],
            marker=MARKERS[number % len(MARKERS)],
        )
        for number, run in enumerate(shown)
    ]
    title = "Overall (mean of greedy and mean@k) by iteration"
    return by_iteration(lines, ylabel="right answers (%)", title=title)


def ablation(runs: Sequence[Run]) -> Figure:
    """`overall` after the last evaluated iteration, one bar a recipe, a dot a seed."""
    shown = [run for run in runs if run.done]
    names = dict(zip((run.recipe for run in shown), outline.labels(shown), strict=True))
    groups: dict[str, list[Bar]] = {}
    for recipe, name in names.items():
        values = [run.scores[-1][1].overall for run in shown if run.recipe == recipe]
        groups[name] = [Bar(value=fmean(values), dots=values)]
    title = "Overall of the last iteration: mean of the runs of a recipe, a dot a run"
    return bars(groups, xlabel="right answers (%)", title=title)


# ------------------------------------------------------------------------------------------------------------ training


def rewards(run: Run) -> Figure:
    """Mean reward of each training step, both roles, every other iteration shaded."""
    return _by_role(run, (("reward", "mean reward"),))


def training(run: Run) -> Figure:
    """KL to the weights at the start of the phase, and response length, of both roles."""
    return _by_role(run, (("kl", "KL (nats per token)"), ("completions/mean_length", "length (tokens)")))


def _by_role(run: Run, measures: Sequence[tuple[str, str]]) -> Figure:
    roles = [role for role in ("challenger", "solver") if any(_steps(iteration, role) for iteration in run.trained)]
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
    for iteration in run.trained:
        rows = _steps(iteration, role)
        if not rows:
            continue
        x = range(start + 1, start + len(rows) + 1)
        values = [_number(row.get(f"{role}/{metric}")) for row in rows]
        axes.plot(x, values, color=colour, marker="o", ms=3.5 if len(rows) < 60 else 0, lw=1.6)
        axes.axvspan(start + 0.5, start + len(rows) + 0.5, color="#000000", alpha=0.05 * (iteration.number % 2), lw=0)
        axes.text(
            start + 0.5 + len(rows) / 2,
            1.01,
            iteration.name,
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


def _steps(iteration: Iteration, role: str) -> Sequence[Row]:
    return iteration.challenger if role == "challenger" else iteration.solver


# ----------------------------------------------------------------------------------------------------------- questions


def agreement(run: Run) -> Figure:
    """How many of the Solver's votes the most frequent answer got, one panel an iteration, the band shaded."""
    return histograms([iteration for iteration in run.trained if voted(iteration)], shaded=band(run.config))


def voted(iteration: Iteration) -> bool:
    """Whether any question of the iteration was put to a vote."""
    return any(question.vote for question in iteration.questions)


def histograms(shown: Sequence[Iteration], *, shaded: tuple[float, float] | None) -> Figure:
    """Agreement in each of `shown`, all of which have votes."""
    columns = min(3, len(shown))
    lines = -(-len(shown) // columns)
    figure = Figure(figsize=(max(5.0, 3.5 * columns), 3.1 * lines), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False, sharey=True)
    panels = [panel for line in grid for panel in line]
    highest = [_votes(panel, iteration, shaded=shaded) for panel, iteration in zip(panels, shown, strict=False)]
    for panel in panels[len(shown) :]:
        panel.set_visible(False)
    for line in grid:
        line[0].set_ylabel("questions")
    panels[0].set_ylim(0, 1.08 * max(highest))
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=len(names))
    return figure


def _votes(axes: Axes, iteration: Iteration, *, shaded: tuple[float, float] | None) -> int:
    """Bars at the agreements that occur, kept questions below, dropped ones on top; returns the highest bar."""
    kept = Counter(round(q.vote.agreement, 4) for q in iteration.questions if q.vote and q.kept)
    dropped = Counter(round(q.vote.agreement, 4) for q in iteration.questions if q.vote and not q.kept)
    votes = max(q.vote.divisor for q in iteration.questions if q.vote)
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
    axes.set_title(f"{iteration.name}: {sum(below)} kept")
    axes.set_xlabel(f"share of {votes} votes for the top answer")
    axes.set_xlim(-0.05, 1.05)
    axes.grid(axis="x", visible=False)
    return max(low + high for low, high in zip(below, above, strict=True))


def questions(run: Run) -> Figure:
    """Left: how many steps the solution of a well-posed question takes. Right: how often the label is the true answer.

    Both are the oracle's measurements of an iteration's questions; a run without an oracle has no such picture.
    """
    shown = [iteration for iteration in run.trained if "audit/level" in iteration.curriculum]
    figure = Figure(figsize=(10.5, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    steps = [
        _measured(shown, "audit/level", label="posed", colour=GREY, marker="s"),
        _measured(shown, "audit/level_kept", label="kept", colour=BLUE, marker="o"),
    ]
    lines_by_iteration(left, steps, ylabel="solution steps (mean)", title="Question difficulty")
    left.set_ylim(0, 1.15 * left.get_ylim()[1])
    shares = [
        _measured(shown, "audit/well_posed", label="well-posed", colour=GREY, marker="s", factor=100),
        _measured(shown, "audit/label_accuracy", label="label right, posed", colour=SKY, marker="D", factor=100),
        _measured(shown, "audit/label_accuracy_kept", label="label right, kept", colour=BLUE, marker="o", factor=100),
    ]
    if any(LABEL_ACCURACY in iteration.curriculum for iteration in shown):
        shares.append(
            _measured(shown, LABEL_ACCURACY, label="label right, estimated", colour=ORANGE, marker="^", factor=100)
        )
    lines_by_iteration(right, shares, ylabel="share of questions (%)", title="Pseudo-label accuracy")
    right.set_ylim(0, 105)
    return figure


def _measured(
    iterations: Sequence[Iteration], metric: str, *, label: str, colour: str, marker: str, factor: float = 1.0
) -> Line:
    points = [
        Point(iteration=iteration.number, value=factor * _number(iteration.curriculum.get(metric)))
        for iteration in iterations
    ]
    return Line(label=label, points=points, colour=colour, marker=marker)


def _number(value: float | None) -> float:
    """Return a gap in the line where a number is missing or was not finite."""
    return float("nan") if value is None else value


# ------------------------------------------------------------------------------------------------ what there is to draw


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """A picture of a run: its name, what it shows in words, and whether the run has come far enough for it."""

    name: str
    alt: str
    draw: Callable[[Run], Figure]
    there: Callable[[Run], bool]


def _trained(run: Run) -> bool:
    return any(iteration.challenger or iteration.solver for iteration in run.trained)


def _audited(run: Run) -> bool:
    return any("audit/level" in iteration.curriculum for iteration in run.trained)


def _voted(run: Run) -> bool:
    return any(voted(iteration) for iteration in run.trained)


OF_RUN: Mapping[SectionId, Sequence[Drawing]] = {
    "result": (
        Drawing(name="accuracy", alt="Accuracy by iteration", draw=accuracy, there=lambda run: bool(run.scores)),
    ),
    "iterations": (
        Drawing(
            name="questions",
            alt="Question difficulty and pseudo-label accuracy by iteration",
            draw=questions,
            there=_audited,
        ),
        Drawing(
            name="agreement",
            alt="Vote agreement in each iteration with the band shaded",
            draw=agreement,
            there=_voted,
        ),
    ),
    "training": (
        Drawing(name="rewards", alt="Reward of both roles by training step", draw=rewards, there=_trained),
        Drawing(
            name="training",
            alt="KL and response length of both roles by training step",
            draw=training,
            there=_trained,
        ),
    ),
}
"""The pictures under each section of a run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A picture of several runs, as `Drawing` is of one."""

    name: str
    alt: str
    draw: Callable[[Sequence[Run]], Figure]
    there: Callable[[Sequence[Run]], bool]


OF_SEVERAL: Sequence[Comparison] = (
    Comparison(
        name="comparison",
        alt="Overall by iteration, one line a run",
        draw=comparison,
        there=lambda runs: any(run.scores for run in runs),
    ),
    Comparison(
        name="ablation",
        alt="Overall of the last iteration, one bar a recipe",
        draw=ablation,
        there=lambda runs: len({run.recipe for run in runs if run.done}) > 1,
    ),
)
