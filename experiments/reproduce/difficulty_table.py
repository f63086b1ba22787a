"""The paper's difficulty and pseudo-label table: questions become harder, their labels less reliable.

python -m experiments.reproduce.difficulty_table scale=micro
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from experiments.reproduce.arms import MICRO, RZERO
from experiments.reproduce.command import main
from experiments.reproduce.pictures import means
from experiments.reproduce.study import Claim, Grid, Group, Runs, Study, mean_text, rise
from experiments.runs import KeptRun

MEASURED = {
    "steps a posed question takes": "audit/level",
    "steps a kept question takes": "audit/level_kept",
    "agreement of the Solver": "curriculum/agreement",
    "label right, all posed": "audit/label_accuracy",
    "label right, kept": "audit/label_accuracy_kept",
}


def harder_for_the_base(runs: Group) -> list[float]:
    """How often the base model is right, in percent, about the questions of the first iteration minus the last's."""
    return [100 * (right(run, 0, 0) - right(run, -1, 0)) for run in runs[RZERO.name]]


def less_reliable(runs: Group) -> list[float]:
    """How often labels of kept questions are right, in percent, in the first iteration minus in the last."""
    return [-100 * value for value in rise(RZERO, "audit/label_accuracy_kept")(runs)]


def right(run: KeptRun, i: int, j: int) -> float:
    """Share of right answers of Solver j on questions of row i. ValueError where the oracle knows none of them."""
    share: float | None = run.matrix[i][j]["accuracy"]
    if share is None:
        raise ValueError(
            f"seed {run.seed}: the oracle knows none of the questions in row {i}, so nothing is right there"
        )
    return share


def matrix(model: str, own: Sequence[KeptRun]) -> Grid:
    """How often Solver j is right about the questions of iteration i."""
    solvers = range(len(own[0].matrix[0]))
    return Grid(
        title=f"{model}, right answers of each Solver on kept questions, share, mean over seeds ± half of the 95 % "
        "interval",
        header=("", *(f"S{j}" if j else "base" for j in solvers)),
        rows=[
            [
                f"questions of round {i + 1}",
                *(mean_text([right(run, i, j) for run in own], ".2f") for j in solvers),
            ]
            for i in range(len(own[0].matrix))
        ],
    )


def tabulate(runs: Runs) -> list[Grid]:
    grids = []
    for model, treatments in runs.items():
        own = treatments[RZERO.name]
        numbers = range(1, len(own[0].iterations))
        rows = [
            [label, *(mean_text([run.iterations[i][metric] for run in own], ".2f") for i in numbers)]
            for label, metric in MEASURED.items()
        ]
        title = f"{model}, questions of each round by the oracle, mean over seeds ± half of the 95 % interval"
        grids.append(Grid(title=title, header=("", *(f"round {i}" for i in numbers)), rows=rows))
        grids.append(matrix(model, own))
    return grids


STUDY = Study(
    name="difficulty_table",
    title="Difficulty of the questions and accuracy of their pseudo-labels by round",
    source="analysis of question difficulty and pseudo-labels",
    models={"micro": (MICRO,)},
    treatments=(RZERO,),
    analysed=True,
    claims=(
        Claim(
            text="posed questions become harder from round to round",
            paper="yes, by how often a fixed Solver is right",
            measure=harder_for_the_base,
        ),
        Claim(
            text="posed questions take more steps from round to round",
            paper="not measured: it needs an oracle",
            measure=rise(RZERO, "audit/level"),
            unit="steps",
        ),
        Claim(
            text="pseudo-labels become less reliable from round to round",
            paper="79, 69, 63 % right",
            measure=less_reliable,
        ),
    ),
    tabulate=tabulate,
    draw=lambda runs: means(
        {
            f"{model}, {label}": [
                [100 * measured[metric] for measured in run.iterations[1:]] for run in own[RZERO.name]
            ]
            for model, own in runs.items()
            for label, metric in MEASURED.items()
            if label.startswith("label")
        },
        ylabel="pseudo-labels that are right (%)",
        start=1,
    ),
    missing={
        "paper": "true answers of posed questions need an oracle; the paper asked GPT-4o, which is not part of this"
    },
)

if __name__ == "__main__":
    sys.exit(main(STUDY))
