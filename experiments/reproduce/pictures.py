"""The two kinds of picture that the studies draw: lines over rounds and bars over arms."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from matplotlib.figure import Figure

from evaluation.metrics import Scores
from evaluation.seeds import over_seeds
from experiments.reporting.plots import COLOURS, MARKERS
from experiments.reproduce.study import Runs
from experiments.runs import Run


def curves(lines: Mapping[str, Sequence[Sequence[float]]], *, ylabel: str, start: int = 0) -> Figure:
    """Mean over seeds of each line with its 95 % interval shaded: {label: [seed][round]}."""
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    axes = figure.subplots()
    longest = 0
    for number, (label, seeds) in enumerate(lines.items()):
        estimates = [over_seeds(values) for values in zip(*seeds, strict=True)]
        x, colour = range(start, start + len(estimates)), COLOURS[number % len(COLOURS)]
        longest = max(longest, start + len(estimates) - 1)
        marker = MARKERS[number % len(MARKERS)]
        axes.plot(x, [e.mean for e in estimates], color=colour, marker=marker, label=label)
        lows = [e.mean if e.low is None else e.low for e in estimates]
        highs = [e.mean if e.high is None else e.high for e in estimates]
        axes.fill_between(x, lows, highs, color=colour, alpha=0.15, lw=0)
    axes.set_xticks(range(start, longest + 1), [f"round {i}" if i else "base" for i in range(start, longest + 1)])
    axes.set_ylabel(ylabel)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def scores_by_round(runs: Runs, score: Callable[[Scores], float], *, ylabel: str) -> Figure:
    """One line for every model and treatment."""
    lines = {
        label(model, treatment, runs): [[score(s) for s in run.scores] for run in group]
        for model, treatments in runs.items()
        for treatment, group in treatments.items()
    }
    return curves(lines, ylabel=ylabel)


def bars(runs: Runs, rows: Mapping[str, Callable[[Scores], float]]) -> Figure:
    """The last round of every arm: one group of bars for each of `rows`, the 95 % interval over seeds on top."""
    arms: dict[str, Sequence[Run]] = {
        label(model, treatment, runs): group
        for model, treatments in runs.items()
        for treatment, group in treatments.items()
    }
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(arms)
    for number, (name, group) in enumerate(arms.items()):
        estimates = [over_seeds([score(run.scores[-1]) for run in group]) for score in rows.values()]
        axes.bar(
            [place + number * width for place in range(len(rows))],
            [e.mean for e in estimates],
            yerr=[0.0 if e.high is None else e.high - e.mean for e in estimates],
            width=width,
            color=COLOURS[number % len(COLOURS)],
            capsize=3,
            label=name,
        )
    axes.set_xticks([place + 0.4 - width / 2 for place in range(len(rows))], list(rows))
    axes.set_ylabel("last round, right answers (%)")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def label(model: str, treatment: str, runs: Runs) -> str:
    """The model is named where there are several."""
    return treatment if len(runs) == 1 else f"{model}, {treatment}"
