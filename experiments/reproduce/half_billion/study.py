"""The arms of the study, what is measured of a run when it has ended, and once beside all of them.

Protocol: experiments/LOG.md, 2026-11-28.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from omegaconf import DictConfig

from evaluation.metrics import Scores
from experiments import PROJECT
from experiments.command_line import say
from experiments.reproduce import compact
from experiments.reproduce.arms import RANDOM, RZERO, UNTRAINED
from experiments.reproduce.seeded import SeededStudy, ends
from experiments.rundir import locked
from experiments.runs import Arm, command
from rzero.durable import write_atomically
from rzero.types import Json

NAME = "qwen2_5_coder_0_5b"
HEADLINE = "gsm8k"
TITLES = {"rzero": RZERO.name, "untrained_challenger": UNTRAINED.name, "random_reward": RANDOM.name}
"""By arm, what it is called in tables."""
BASE_ANSWERS = f"benchmarks.folder=${{project:}}/outputs/{NAME}/evaluations"
"""All runs ask their base model the same with the same random numbers: its answers are kept in one place."""

NEARLY_GREEDY = 0.1
"""A temperature. Where a long answer goes hangs on the last bits of its first tokens, so that a greedy score is one
drawing of many: those that hardly differ from it say how far it scatters, and where it would be on the mean."""


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
    asked = f"experiment={NAME}", "prompts=school", "benchmarks=school_transfer"
    threads = f"threads={config.threads}", f"engine.threads={config.engine.threads}"  # another run may be beside it
    return ends(directory, config, place, *asked, *threads)


def temperatures(study: SeededStudy) -> tuple[float, float]:
    """Return what the base is also drawn at: as cold as the votes, and nearly greedily.

    A Solver that grew more certain is right more often at T = 1, and so is the base at a lower temperature, untrained.
    """
    return float(study.config("rzero", 0).curriculum.sampling_answers.temperature), NEARLY_GREEDY


def ask_colder_base(study: SeededStudy) -> None:
    """Ask the base what counts at those temperatures and keep its scores, unless they are kept.

    Raises RuntimeError when an evaluation fails.
    """
    for temperature in temperatures(study):
        _ask(study, temperature)


def _ask(study: SeededStudy, temperature: float) -> None:
    directory = study.work / study.name / _colder(study, temperature).name.partition(".json")[0]
    directory.mkdir(parents=True, exist_ok=True)
    with locked(directory, wait=True):  # another command of this study may be about it
        if colder_base(study, temperature):
            return
        say(f"the base at T = {temperature:g}: asked in {directory}")
        command(
            "experiments.evaluate",
            f"experiment={NAME}",
            f"policy={NAME}",
            "prompts=school",
            BASE_ANSWERS,
            *study.machine,
            f"benchmarks.tasks=[{HEADLINE}]",
            f"benchmarks.protocol.temperature={temperature}",
            f"directory={directory / 'evaluated'}",
        )
        written = (directory / "evaluated" / "scores").glob("*.json")
        newest = max(written, key=lambda path: path.stat().st_mtime_ns)  # others are of another prompt
        scores = json.loads(newest.read_text(encoding="utf-8"))["scores"]
        found = {"temperature": temperature, "scores": compact.without_table(scores)}
        kept = _colder(study, temperature)
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(kept, compact.packed(json.dumps(found)))


def colder_base(study: SeededStudy, temperature: float) -> Scores | None:
    """Return what is kept of the base at a temperature; None where it was not asked."""
    kept = _colder(study, temperature)
    return Scores.from_json(json.loads(compact.unpacked(kept))["scores"]) if kept.exists() else None


def _colder(study: SeededStudy, temperature: float) -> Path:
    return study.root / study.name / f"base_at_{temperature:g}.json.xz"


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
    beside=ask_colder_base,
)
