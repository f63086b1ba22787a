"""One model in both roles against two models.

python -m experiments.reproduce.one_model scale=micro
"""

from __future__ import annotations

import sys

from experiments.reproduce.arms import MICRO, RZERO, SHARED
from experiments.reproduce.command import main
from experiments.reproduce.pictures import scores_by_iteration
from experiments.reproduce.study import Claim, Grid, Group, Runs, Study, leads, overall_avg
from experiments.reproduce.tables import at_the_end


def tabulate(runs: Runs) -> list[Grid]:
    return at_the_end(runs, ("MATH AVG", "GENERAL AVG", "Overall AVG"))


def label_lead(runs: Group) -> list[float]:
    """How often pseudo-labels of the last iteration are right, in percent, two models minus one."""
    metric = "audit/label_accuracy_kept"
    pairs = zip(runs[RZERO.name], runs[SHARED.name], strict=True)
    return [100 * (two.iterations[-1][metric] - one.iterations[-1][metric]) for two, one in pairs]


STUDY = Study(
    name="one_model",
    title="Two models, or one model in both roles",
    source="analysis of shared weights",
    models={"micro": (MICRO,)},
    treatments=(RZERO, SHARED),
    claims=(
        Claim(
            text="two models end higher than one in both roles",
            paper="yes: one model collapses sooner",
            measure=leads(RZERO, SHARED, overall_avg),
        ),
        Claim(
            text="with two models the pseudo-labels of the last round are more reliable",
            paper="yes",
            measure=label_lead,
        ),
    ),
    tabulate=tabulate,
    draw=lambda runs: scores_by_iteration(runs, overall_avg, ylabel="Overall AVG (%)"),
    missing={"paper": "true answers of posed questions need an oracle; run roles=shared by hand for the scores"},
)

if __name__ == "__main__":
    sys.exit(main(STUDY))
