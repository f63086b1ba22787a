"""One model in both roles against two models.

python -m experiments.reproduce.one_model scale=micro
"""

from __future__ import annotations

import sys

from experiments.reproduce.arms import MICRO, PAPER, RZERO, SHARED
from experiments.reproduce.command import main
from experiments.reproduce.pictures import scores_by_round
from experiments.reproduce.study import Claim, Grid, Runs, Study, gains, leads, overall_avg
from experiments.reproduce.tables import last_rounds


def tabulate(runs: Runs) -> list[Grid]:
    return last_rounds(runs, ("MATH AVG", "GENERAL AVG", "Overall AVG"))


STUDY = Study(
    name="one_model",
    title="Two models, or one model in both roles",
    source="analysis of shared weights (SPEC section 9)",
    models={"micro": (MICRO,), "paper": PAPER[:1]},
    treatments=(RZERO, SHARED),
    claims=(
        Claim(
            text="two models end higher than one in both roles",
            paper="one model gains less and collapses earlier",
            measure=leads(RZERO, SHARED, overall_avg),
        ),
        Claim(
            text="one model in both roles still gains over the base",
            paper="true of its first round",
            measure=gains(SHARED, overall_avg),
        ),
    ),
    tabulate=tabulate,
    draw=lambda runs: scores_by_round(runs, overall_avg, ylabel="Overall AVG (%)"),
)

if __name__ == "__main__":
    sys.exit(main(STUDY))
