"""Tables that several studies share."""

from __future__ import annotations

from collections.abc import Sequence

from evaluation.metrics import Scores
from experiments.reproduce.arms import RZERO
from experiments.reproduce.study import Grid, Group, Runs, mean_text, row_score
from experiments.runs import KeptRun


def by_iteration(runs: Runs, *, group: str, averages: Sequence[str]) -> list[Grid]:
    """A table for each model: benchmarks of a group and averages, base model, others at the end, iterations."""
    return [_by_iteration(model, treatments, group=group, averages=averages) for model, treatments in runs.items()]


def _by_iteration(model: str, treatments: Group, *, group: str, averages: Sequence[str]) -> Grid:
    own = treatments[RZERO.name]
    others = {name: found for name, found in treatments.items() if name != RZERO.name}
    names = [b.name for b in own[0].scores[0].benchmarks if b.group == group]
    numbers = range(1, min(len(run.scores) for run in own))

    def cells(row: str) -> list[str]:
        columns: list[list[Scores]] = [
            [run.scores[0] for run in own],
            *([run.scores[-1] for run in found] for found in others.values()),
            *([run.scores[i] for run in own] for i in numbers),
        ]
        return [mean_text([row_score(scores, row) for scores in column]) for column in columns]

    return Grid(
        title=f"{model}, percent, mean over seeds ± half of the 95 % interval",
        header=("", "base", *(f"{name}, last round" for name in others), *(f"round {i}" for i in numbers)),
        rows=[[row, *cells(row)] for row in (*names, *averages)],
    )


def at_the_end(runs: Runs, rows: Sequence[str]) -> list[Grid]:
    """A table for each model: treatments down, averages across, after the last round."""
    return [
        Grid(
            title=f"{model}, last round, percent, mean over seeds ± half of the 95 % interval",
            header=("", *rows),
            rows=[
                ["base", *(mean_text([row_score(run.scores[0], row) for run in _first(treatments)]) for row in rows)],
                *(
                    [name, *(mean_text([row_score(run.scores[-1], row) for run in found]) for row in rows)]
                    for name, found in treatments.items()
                ),
            ],
        )
        for model, treatments in runs.items()
    ]


def _first(treatments: Group) -> Sequence[KeptRun]:
    return next(iter(treatments.values()))
