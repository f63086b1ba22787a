"""The arms of the study, and what is measured of a run when it has ended (protocol: experiments/LOG.md, 2026-11-28)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from omegaconf import DictConfig

from evaluation.metrics import Scores
from experiments import PROJECT
from experiments.reproduce.arms import RANDOM, RZERO, UNTRAINED
from experiments.reproduce.seeded import SeededStudy, ends
from experiments.runs import Arm
from rzero.types import Json

NAME = "qwen2_5_coder_0_5b"
HEADLINE = "gsm8k"
TITLES = {"rzero": RZERO.name, "untrained_challenger": UNTRAINED.name, "random_reward": RANDOM.name}
"""By arm, what it is called in tables."""
BASE_ANSWERS = f"benchmarks.folder=${{project:}}/outputs/{NAME}/evaluations"
"""All runs ask their base model the same with the same random numbers: its answers are kept in one place."""


def arm(folder: str, *overrides: str) -> Arm:
    return Arm(folder=folder, overrides=(f"experiment={NAME}", BASE_ANSWERS, *overrides))


def only(scores: Scores, benchmark: str) -> Scores:
    """Return the scores of one benchmark: its `overall` is the mean of greedy and mean@k there."""
    return replace(scores, benchmarks=tuple(score for score in scores.benchmarks if score.name == benchmark))


def score(scores: Scores) -> float:
    """Return the figure that counts, in percent."""
    return only(scores, HEADLINE).overall


def transfer(directory: Path, config: DictConfig) -> list[Json]:
    """Ask the base and the last Solver what nobody trains for; return scores and truncated shares of both."""
    place = PROJECT / "outputs" / NAME / "transfer"
    return ends(directory, config, place, f"experiment={NAME}", "prompts=school", "benchmarks=school_transfer")


STUDY = SeededStudy(
    name=NAME,
    arms={
        "rzero": arm("rzero"),
        "untrained_challenger": arm("untrained_challenger", *UNTRAINED.overrides),
        "random_reward": arm("random_reward", *RANDOM.overrides),
    },
    seeds={"rzero": (0, 1, 2), "untrained_challenger": (0, 1, 2), "random_reward": (0,)},
    score=score,
    after=transfer,
)
