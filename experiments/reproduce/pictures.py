"""The two kinds of picture that the studies draw: lines over iterations and bars over arms."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from matplotlib.figure import Figure

from evaluation.metrics import Scores
from evaluation.seeds import over_seeds
from experiments.reporting.figures import Bar, Line, Point, bars, by_iteration
from experiments.reproduce.study import Runs
from experiments.runs import KeptRun


def means(lines: Mapping[str, Sequence[Sequence[float]]], *, ylabel: str, start: int = 0) -> Figure:
    """Mean over seeds of each line with its 95 % interval shaded: {label: [seed][iteration]}."""
    return by_iteration([_mean(label, seeds, start=start) for label, seeds in lines.items()], ylabel=ylabel)


def _mean(label: str, seeds: Sequence[Sequence[float]], *, start: int) -> Line:
    estimates = enumerate((over_seeds(values) for values in zip(*seeds, strict=True)), start)
    return Line(
        label=label,
        points=[Point(iteration=number, value=e.mean, low=e.low, high=e.high) for number, e in estimates],
    )


def scores_by_iteration(runs: Runs, score: Callable[[Scores], float], *, ylabel: str) -> Figure:
    """One line for every model and treatment."""
    lines = {name: [[score(scores) for scores in run.scores] for run in group] for name, group in _arms(runs).items()}
    return means(lines, ylabel=ylabel)


def ends(runs: Runs, rows: Mapping[str, Callable[[Scores], float]]) -> Figure:
    """The last iteration of every arm: one group of bars for each of `rows`, with the 95 % interval over seeds."""
    groups = {
        name: [_bar(arm, [score(run.scores[-1]) for run in group]) for arm, group in _arms(runs).items()]
        for name, score in rows.items()
    }
    return bars(groups, xlabel="last iteration, right answers (%)")


def _bar(arm: str, values: Sequence[float]) -> Bar:
    estimate = over_seeds(values)
    return Bar(label=arm, value=estimate.mean, low=estimate.low, high=estimate.high)


def _arms(runs: Runs) -> dict[str, Sequence[KeptRun]]:
    """Return the runs of every model and treatment; the model is named where there are several."""
    return {
        treatment if len(runs) == 1 else f"{model}, {treatment}": group
        for model, treatments in runs.items()
        for treatment, group in treatments.items()
    }
