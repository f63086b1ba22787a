"""The paper's main table: mathematics, base model, untrained Challenger and rounds 1 to 3.

python -m experiments.reproduce.main_table scale=micro
"""

from __future__ import annotations

import sys

from experiments.reproduce.arms import MICRO, PAPER, RZERO, UNTRAINED
from experiments.reproduce.command import main
from experiments.reproduce.pictures import scores_by_iteration
from experiments.reproduce.study import Claim, Grid, Group, Runs, Study, gains, leads, math_avg
from experiments.reproduce.tables import by_iteration


def weakest_step(runs: Group) -> list[float]:
    """The smallest step between two iterations, seed by seed: positive where each improves on the one before."""
    return [
        min(math_avg(after) - math_avg(before) for before, after in zip(run.scores, run.scores[1:], strict=False))
        for run in runs[RZERO.name]
    ]


def tabulate(runs: Runs) -> list[Grid]:
    return by_iteration(runs, group="math", averages=("MATH AVG",))


STUDY = Study(
    name="main_table",
    title="Mathematics: base, untrained Challenger, rounds 1 to 3",
    source="main results, mathematics",
    models={"micro": (MICRO,), "paper": PAPER},
    treatments=(RZERO, UNTRAINED),
    claims=(
        Claim(
            text="three rounds raise MATH AVG above the base model's",
            paper="+6.49 (Qwen3-4B), +5.51 (Qwen3-8B)",
            measure=gains(RZERO, math_avg),
        ),
        Claim(text="every round improves on the one before", paper="true of all four models", measure=weakest_step),
        Claim(
            text="a trained Challenger beats an untrained one",
            paper="49.07 against 44.36 (Qwen3-4B)",
            measure=leads(RZERO, UNTRAINED, math_avg),
        ),
    ),
    tabulate=tabulate,
    draw=lambda runs: scores_by_iteration(runs, math_avg, ylabel="MATH AVG (%)"),
)

if __name__ == "__main__":
    sys.exit(main(STUDY))
