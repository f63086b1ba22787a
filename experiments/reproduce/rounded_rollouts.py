"""Rollouts in int8 on the micro model, all weights trained: does what is learned suffer, corrected or not?

    python -m experiments.reproduce.rounded_rollouts                  # what is kept, and the verdict
    python -m experiments.reproduce.rounded_rollouts --run            # run what is missing, minutes a run, resumable
    python -m experiments.reproduce.rounded_rollouts --run --arms int8_corrected --seeds 0

Three rounds of the micro experiment with float32 rollouts, with int8 and truncated importance sampling in both roles,
and with int8 taken for what the trainer would have drawn. Every last Solver is asked in float32. A run that is finished
is kept in experiments/results/rounded_rollouts/; one that was stopped goes on from outputs/rounded_rollouts/.

Exit codes: 0 done; 1 runs are missing, or the user stopped; 2 a wrong value or a failed run; 143 SIGTERM.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, variance

from omegaconf import DictConfig

from evaluation.metrics import Scores
from experiments import PROJECT
from experiments.command_line import command_parser, say
from experiments.reproduce.compact import Kept
from experiments.reproduce.seeded import SeededStudy, add_arguments, carry_out, ends
from experiments.runs import Arm
from rzero.types import Json

NAME = "rounded_rollouts"
FLOAT32 = "float32"
AS_EXACT = ("engine.max_rows=512", "engine.threads=1", "engine.refill=false", "engine.prefill_tokens=16384")
INT8 = ("experiment=micro", "engine=embedded_int8", *AS_EXACT)


def asked_in_float32(directory: Path, config: DictConfig) -> list[Json]:
    """Evaluate the base and the last Solver without rounding, under the protocol of the micro experiment."""
    return ends(directory, config, PROJECT / "outputs" / NAME / "evaluated", "benchmarks=micro")


STUDY = SeededStudy(
    name=NAME,
    arms={
        FLOAT32: Arm(folder=FLOAT32, overrides=("experiment=micro",)),
        "int8_corrected": Arm(folder="int8_corrected", overrides=INT8),
        "int8_uncorrected": Arm(
            folder="int8_uncorrected",
            overrides=(*INT8, "mismatch@challenger.loss=none", "mismatch@solver.loss=none"),
        ),
    },
    seeds={FLOAT32: (0, 1, 2), "int8_corrected": (0, 1, 2), "int8_uncorrected": (0, 1, 2)},
    score=lambda scores: scores.overall,
    after=asked_in_float32,
)


def end(run: Kept) -> float:
    """Return what the last Solver scores without rounding, in percent."""
    return Scores.from_json(run.transfer[-1]).overall


def difference(rounded: Sequence[Kept], exact: Sequence[Kept]) -> tuple[float, float]:
    """Return the difference of the means over seeds, in points, and its standard error (that of two samples)."""
    one, other = [end(run) for run in rounded], [end(run) for run in exact]
    error = (variance(one) / len(one) + variance(other) / len(other)) ** 0.5
    return fmean(one) - fmean(other), error


def verdicts(study: SeededStudy) -> list[str]:
    """Return a sentence for each rounded arm that is kept with two seeds or more, as float32 has to be."""
    exact, said = study.kept(FLOAT32), []
    for name in study.arms:
        rounded = study.kept(name)
        if name != FLOAT32 and min(len(exact), len(rounded)) > 1:
            points, error = difference(rounded, exact)
            within = "within" if abs(points) <= 2 * error else "outside of"
            said.append(
                f"{name} ends {points:+.2f} points from {FLOAT32}, {within} twice the standard error, {error:.2f}"
            )
    return said


def main(arguments: Sequence[str] | None = None) -> int:
    parser = command_parser(f"experiments.reproduce.{NAME}", __doc__)
    add_arguments(parser, STUDY)
    code = carry_out(STUDY, parser.parse_args(arguments))
    for sentence in verdicts(STUDY):
        say(sentence)
    return code


if __name__ == "__main__":
    sys.exit(main())
