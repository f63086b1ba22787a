"""The paper's ablation table: R-Zero without one of its parts.

python -m experiments.reproduce.ablation_table scale=micro
"""

from __future__ import annotations

import sys

from experiments.reproduce.arms import MICRO, NO_FILTERING, NO_REPETITION, PAPER, RZERO, UNTRAINED
from experiments.reproduce.command import main
from experiments.reproduce.pictures import ends
from experiments.reproduce.study import Claim, Grid, Runs, Study, general_avg, leads, math_avg
from experiments.reproduce.tables import at_the_end


def tabulate(runs: Runs) -> list[Grid]:
    return at_the_end(runs, ("MATH AVG", "GENERAL AVG", "Overall AVG"))


STUDY = Study(
    name="ablation_table",
    title="Ablations: without RL Challenger, repetition penalty, filtering",
    source="section 4.4",
    models={"micro": (MICRO,), "paper": PAPER[:1]},
    treatments=(RZERO, UNTRAINED, NO_REPETITION, NO_FILTERING),
    claims=(
        Claim(
            text="without RL Challenger, mathematics is worse",
            paper="44.36 against 49.07",
            measure=leads(RZERO, UNTRAINED, math_avg),
        ),
        Claim(
            text="without repetition penalty, mathematics is worse",
            paper="45.76 against 49.07",
            measure=leads(RZERO, NO_REPETITION, math_avg),
        ),
        Claim(
            text="without repetition penalty, general reasoning is worse",
            paper="28.73 against 31.15",
            measure=leads(RZERO, NO_REPETITION, general_avg),
        ),
        Claim(
            text="without filtering, mathematics is worse",
            paper="47.35 against 49.07",
            measure=leads(RZERO, NO_FILTERING, math_avg),
        ),
        Claim(
            text="without filtering, general reasoning is worse",
            paper="26.69 against 31.15",
            measure=leads(RZERO, NO_FILTERING, general_avg),
        ),
    ),
    tabulate=tabulate,
    draw=lambda runs: ends(runs, {"MATH AVG": math_avg, "GENERAL AVG": general_avg}),
)

if __name__ == "__main__":
    sys.exit(main(STUDY))
