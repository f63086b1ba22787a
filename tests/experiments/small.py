"""The real configuration of the micro experiment, shrunk until a run takes seconds."""

from __future__ import annotations

from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from experiments import PROJECT, composition
from experiments.resolvers import register_resolvers
from rzero.runs.progress import Silent
from rzero.selfplay import SelfPlay

SHRUNK = (
    "iterations=2",
    "grader=exact",
    "benchmarks.benchmarks.items=3",
    "benchmarks.k=2",
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
    register_resolvers()
    with initialize_config_dir(config_dir=str(PROJECT / "conf"), version_base="1.3"):
        return compose("config", overrides=list(overrides))


def small_run(directory: Path, *overrides: str) -> SelfPlay:
    """A shrunk run, built but not started."""
    directory.mkdir(exist_ok=True)
    selfplay = composition.build(config(*SHRUNK, *overrides), directory)
    selfplay.narrator = Silent()
    return selfplay
