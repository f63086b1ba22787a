"""The real loop around a model of a few thousand parameters and canned replies: a whole run in a second."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from experiments.torture.attempts import end_state
from rzero.collapse import CollapseMonitor
from rzero.curriculum import BandCurriculum, CentredBand
from rzero.durable import remove_leftovers
from rzero.grading.exact_grader import ExactGrader
from rzero.interfaces import Responses
from rzero.policy import Policy, load_policy
from rzero.polls import Polling
from rzero.runs.bank import JsonlBank
from rzero.runs.directory import RunDirectory
from rzero.runs.health import GraderHealth
from rzero.runs.ledger import Ledger
from rzero.runs.progress import Silent
from rzero.runs.stages import Stages
from rzero.runs.weights import Weights
from rzero.selfplay import ChallengerPhase, CurriculumPhase, SelfPlay, SolverPhase
from rzero.tracking import JsonlTracker
from rzero.types import Prompt, Question, RewardBreakdown, Vote
from tests.rzero.processes.two_processes import make_loss, make_trainer, pay_challenger, settings
from tests.scripted import ScriptedEngine

REPLIES = ("1", "22", "3 3", "4")
LOAD = functools.partial(load_policy, dtype="float32", attn_implementation="sdpa")
ADAMW = functools.partial(torch.optim.AdamW, lr=1e-2, eps=1e-3)


class Prompts:
    def challenger(self) -> Prompt:
        return Prompt(user="Pose.")

    def solver(self, question: str) -> Prompt:
        return Prompt(user=question)


class Scores:
    overall = 50.0

    def metrics(self) -> dict[str, float]:
        return {"evaluation/overall": self.overall}

    def to_json(self) -> dict[str, Any]:
        return {"overall": self.overall}


class Suite:
    benchmarks = ()

    def evaluate(self, engine: Any, *, policy: Any = None, progress: Any = None, watch: Any = None) -> Scores:
        return Scores()


class Said(Silent):
    """Remembers what the narrator was told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)

    def end(self, summary: str = "") -> None:
        self.lines.append(summary)


def reply(prompt: Prompt, sample: int) -> str:
    return REPLIES[(sample + len(prompt.user)) % len(REPLIES)]


def vote(texts: Sequence[str]) -> Vote:
    return Vote(label=texts[0], count=1, divisor=2, counts=((texts[0], 1),), answers=tuple(texts))


def pay_solver(groups: Responses, labels: Sequence[str]) -> list[list[RewardBreakdown]]:
    return [
        [RewardBreakdown(total=float(text == label)) for text in group]
        for group, label in zip(groups, labels, strict=True)
    ]


def tiny_run(
    directory: Path,
    base: Path,
    *,
    script: Any = reply,
    role: Any = None,
    collapse: CollapseMonitor | None = None,
    checkpoint_every: int = 1,
    load: Callable[[str], Policy] = LOAD,
    **changes: Any,
) -> SelfPlay:
    """One iteration of two steps a phase from the model in `base`; `role` changes both phases' settings."""
    directory.mkdir(exist_ok=True)
    remove_leftovers(directory)
    place = RunDirectory(directory)
    ledger = Ledger.open(place.state)
    ledger.recover(directory)
    record = JsonlTracker(place.metrics)
    record.rewind(ledger.last.metrics.size)
    polling = Polling(votes=2, sampling={"max_tokens": 8}, rule=lambda many: [vote(texts) for texts in many])
    grpo = {"settings": settings(updates_per_rollout=1, **(role or {})), "loss": make_loss(), "optimizer": ADAMW}
    challenger = ChallengerPhase(parse=parse, polling=polling, reward=lambda seed: pay_challenger, **grpo)
    rule = BandCurriculum(band=CentredBand(centre=0.5, half_width=0.25))
    curriculum = CurriculumPhase(candidates=4, sampling={"max_tokens": 8}, parse=parse, polling=polling, rule=rule)
    stages = Stages(
        directory=place, ledger=ledger, record=record, tracker=record, narrator=Said(),
        health=GraderHealth(ExactGrader(max_chars=100), alarm_share=1.0), checkpoint_every=checkpoint_every,
        collapse=collapse or CollapseMonitor(limits={}),
    )  # fmt: skip
    parts: dict[str, Any] = {
        "seed": 0, "iterations": 1, "make_engine": lambda: ScriptedEngine(script), "make_trainer": make_trainer,
        "prompts": Prompts(),
        "challenger": challenger, "curriculum": curriculum,
        "solver": SolverPhase(reward=lambda seed: pay_solver, **grpo), "suite": Suite(),
        "audit": lambda labelled: {}, "bank": JsonlBank(place), "stages": stages,
        "weights": Weights(base=str(base), make=load, directory=place),
    }  # fmt: skip
    return SelfPlay(**{**parts, **changes})


def said(run: SelfPlay) -> list[str]:
    """What the narrator of a run was told."""
    assert isinstance(run.stages.narrator, Said)
    return run.stages.narrator.lines


def parse(text: str) -> Question | None:
    return Question(text=f"What is {text}?", answer=text) if text.strip() else None


def execute(run: SelfPlay) -> dict[str, str]:
    """Runs it; what it ends with, by name."""
    try:
        run.run()
    finally:
        run.close()
    return end_state(run.stages.directory.path)
