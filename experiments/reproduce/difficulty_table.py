"""The paper's difficulty and pseudo-label table: questions become harder, their labels less reliable.

python -m experiments.reproduce.difficulty_table scale=micro
"""

from __future__ import annotations

import sys

from experiments.reproduce.arms import MICRO, RZERO
from experiments.reproduce.command import main
from experiments.reproduce.pictures import curves
from experiments.reproduce.study import Claim, Grid, Runs, Study, fall, mean_text, rise

MEASURED = {
    "steps a posed question takes": "audit/level",
    "steps a kept question takes": "audit/level_kept",
    "agreement of the Solver": "curriculum/agreement",
    "label right, all posed": "audit/label_accuracy",
    "label right, kept": "audit/label_accuracy_kept",
}


def tabulate(runs: Runs) -> list[Grid]:
    grids = []
    for model, treatments in runs.items():
        own = treatments[RZERO.name]
        rounds = range(1, len(own[0].rounds))
        rows = [
            [label, *(mean_text([run.rounds[i][metric] for run in own], ".2f") for i in rounds)]
            for label, metric in MEASURED.items()
        ]
        title = f"{model}, questions of each round by the oracle, mean over seeds ± half of the 95 % interval"
        grids.append(Grid(title=title, header=("", *(f"round {i}" for i in rounds)), rows=rows))
    return grids


STUDY = Study(
    name="difficulty_table",
    title="Difficulty of the questions and accuracy of their pseudo-labels by round",
    source="analysis of question difficulty and pseudo-labels (SPEC section 7)",
    models={"micro": (MICRO,)},
    treatments=(RZERO,),
    claims=(
        Claim(
            text="posed questions become harder from round to round",
            paper="yes, by how often a fixed Solver is right",
            measure=rise(RZERO, "audit/level"),
        ),
        Claim(
            text="pseudo-labels become less reliable from round to round",
            paper="79, 69, 63 % right",
            measure=fall(RZERO, "audit/label_accuracy_kept"),
        ),
    ),
    tabulate=tabulate,
    draw=lambda runs: curves(
        {
            f"{model}, {label}": [[100 * turn[metric] for turn in run.rounds[1:]] for run in treatments[RZERO.name]]
            for model, treatments in runs.items()
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
