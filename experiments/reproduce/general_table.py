"""The paper's general-reasoning table: what training on mathematics questions does to everything else.

python -m experiments.reproduce.general_table scale=micro
"""

from __future__ import annotations

import sys

from experiments.reproduce.arms import MICRO, PAPER, RZERO, UNTRAINED
from experiments.reproduce.command import main
from experiments.reproduce.pictures import scores_by_iteration
from experiments.reproduce.study import Claim, Grid, Runs, Study, gains, general_avg, leads, overall_avg
from experiments.reproduce.tables import by_iteration


def tabulate(runs: Runs) -> list[Grid]:
    return by_iteration(runs, group="general", averages=("GENERAL AVG", "Overall AVG"))


STUDY = Study(
    name="general_table",
    title="General reasoning: base, untrained Challenger, rounds 1 to 3",
    source="main results, general reasoning",
    models={"micro": (MICRO,), "paper": PAPER},
    treatments=(RZERO, UNTRAINED),
    claims=(
        Claim(
            text="three rounds raise the general benchmarks, none of which the Challenger poses",
            paper="SuperGPQA +6.67, MMLU-Pro +14.15, BBEH +2.85 (Qwen3-4B)",
            measure=gains(RZERO, general_avg),
        ),
        Claim(text="three rounds raise Overall AVG", paper="+7.54 (Qwen3-4B)", measure=gains(RZERO, overall_avg)),
        Claim(
            text="a trained Challenger beats an untrained one on Overall AVG",
            paper="34.64 against 30.83 (Qwen3-4B)",
            measure=leads(RZERO, UNTRAINED, overall_avg),
        ),
    ),
    tabulate=tabulate,
    draw=lambda runs: scores_by_iteration(runs, general_avg, ylabel="GENERAL AVG (%)"),
)

if __name__ == "__main__":
    sys.exit(main(STUDY))
