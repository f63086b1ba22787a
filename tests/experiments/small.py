"""The real configuration of the micro experiment, shrunk until a run takes seconds."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from experiments import composition
from experiments.compose import compose
from rzero.runs.progress import Silent
from rzero.selfplay import SelfPlay

SHRUNK = (
    "iterations=2",
    "grader=exact",
    "benchmarks.source.source.items=3",
    "benchmarks.protocol.k=2",
    "challenger.settings.steps=2",
    "challenger.settings.prompts_per_step=4",
    "challenger.polling.votes=4",
    "solver.settings.steps=2",
    "solver.settings.prompts_per_step=4",
    "solver.settings.samples_per_prompt=4",
    "curriculum.candidates=32",
    "curriculum.votes=4",
    "response_tokens=48",
)


def config(*overrides: str) -> DictConfig:
    """The default experiment with `overrides`, as `python -m experiments.run` composes it."""
    return compose(*overrides)


def small_run(directory: Path, *overrides: str) -> SelfPlay:
    """A shrunk run, built but not started."""
    directory.mkdir(exist_ok=True)
    selfplay = composition.build(config(*SHRUNK, *overrides), directory)
    selfplay.stages.narrator = Silent()
    return selfplay
