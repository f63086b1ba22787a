"""Labelled training after R-Zero: is R-Zero a better start for it than the base model?

python -m experiments.reproduce.labelled_training scale=micro
"""

from __future__ import annotations

import sys

from experiments.reproduce.arms import LABELLED, LABELLED_AFTER, MICRO, RZERO
from experiments.reproduce.command import main
from experiments.reproduce.pictures import scores_by_iteration
from experiments.reproduce.study import Claim, Grid, Runs, Study, leads, math_avg
from experiments.reproduce.tables import at_the_end


def tabulate(runs: Runs) -> list[Grid]:
    return at_the_end(runs, ("MATH AVG", "GENERAL AVG", "Overall AVG"))


STUDY = Study(
    name="labelled_training",
    title="Labelled training of the base model and of R-Zero's Solver",
    source="analysis of R-Zero before supervised training",
    models={"micro": (MICRO,)},
    treatments=(RZERO, LABELLED, LABELLED_AFTER),
    claims=(
        Claim(
            text="labelled training ends higher when it starts from R-Zero's Solver",
            paper="+2.35 (Qwen3-4B)",
            measure=leads(LABELLED_AFTER, LABELLED, math_avg),
        ),
    ),
    tabulate=tabulate,
    draw=lambda runs: scores_by_iteration(runs, math_avg, ylabel="MATH AVG (%)"),
    missing={"paper": "a labelled training set of mathematics is not part of this repository"},
)

if __name__ == "__main__":
    sys.exit(main(STUDY))
