"""The paper's iteration-scaling figure: ten rounds on models of several sizes, up to the collapse.

python -m experiments.reproduce.scaling_figure scale=micro
"""

from __future__ import annotations

import sys

from experiments.reproduce.arms import PAPER, TEN_ITERATIONS, micro_sizes
from experiments.reproduce.command import main
from experiments.reproduce.pictures import scores_by_iteration
from experiments.reproduce.study import Claim, Grid, Group, Runs, Study, mean_text, overall_avg

EARLY = 3
"""The iterations of the main experiment; the collapse is what comes after them."""


def decline(runs: Group) -> list[float]:
    """The best of the first three iterations minus the last, seed by seed."""
    return [
        max(overall_avg(scores) for scores in run.scores[1 : EARLY + 1]) - overall_avg(run.scores[-1])
        for run in runs[TEN_ITERATIONS.name]
    ]


def early_gain(runs: Group) -> list[float]:
    """The first iteration minus the base model, seed by seed."""
    return [overall_avg(run.scores[1]) - overall_avg(run.scores[0]) for run in runs[TEN_ITERATIONS.name]]


def peak(runs: Group) -> list[float]:
    """The iteration with the highest Overall AVG, 0 for the base model."""
    values = [[overall_avg(scores) for scores in run.scores] for run in runs[TEN_ITERATIONS.name]]
    return [float(overall.index(max(overall))) for overall in values]


def tabulate(runs: Runs) -> list[Grid]:
    longest = min(len(run.scores) for treatments in runs.values() for run in treatments[TEN_ITERATIONS.name])
    rows = []
    for model, treatments in runs.items():
        every = [[overall_avg(run.scores[i]) for run in treatments[TEN_ITERATIONS.name]] for i in range(longest)]
        rows.append([model, *map(mean_text, every), mean_text(peak(treatments))])
    title = "Overall AVG, percent, and the round of its peak, mean over seeds ± half of the 95 % interval"
    return [Grid(title=title, header=("", "base", *(f"{i}" for i in range(1, longest)), "peak"), rows=rows)]


STUDY = Study(
    name="scaling_figure",
    title="Ten rounds: gain, peak and collapse",
    source="analysis of iteration scaling: small models peak at round 1 and then decline",
    models={"micro": micro_sizes(), "paper": PAPER},
    treatments=(TEN_ITERATIONS,),
    claims=(
        Claim(text="the first round improves on the base", paper="true of all four models", measure=early_gain),
        Claim(
            text="with more rounds the model declines again",
            paper="small models peak at round 1 and then decline",
            measure=decline,
        ),
    ),
    tabulate=tabulate,
    draw=lambda runs: scores_by_iteration(runs, overall_avg, ylabel="Overall AVG (%)"),
)

if __name__ == "__main__":
    sys.exit(main(STUDY))
