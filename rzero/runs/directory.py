"""The directory of a run: where each of its files lies.

    RunDirectory(path).metrics                # metrics.jsonl, one row per rollout or evaluation
    RunDirectory(path).weights("solver", 2)   # iteration_2/solver, a Hugging Face directory

Names only: a file may not be there yet. This is the one place that knows them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rzero.roles import Role

_ITERATION = "iteration_"


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """Paths of a run's files below `path`. Iterations count from 1; 0 is the evaluation of the base model."""

    path: Path

    @property
    def config(self) -> Path:
        """The composed configuration (YAML)."""
        return self.path / "config.yaml"

    @property
    def manifest(self) -> Path:
        """Code, versions, machine and times of the run, and whether it came to its end (JSON)."""
        return self.path / "run.json"

    @property
    def state(self) -> Path:
        """The ledger (`rzero.runs.ledger`): which stages are complete."""
        return self.path / "state.json"

    @property
    def metrics(self) -> Path:
        """All metrics, a JSON object a line."""
        return self.path / "metrics.jsonl"

    @property
    def analyses(self) -> Path:
        """The paper's analyses of the run (`experiments.analyse`), when they were made (JSON)."""
        return self.path / "analyses.json"

    @property
    def second_opinion(self) -> Path:
        """What a larger model says to some of the kept questions (`experiments.second_opinion`), if asked (JSON)."""
        return self.path / "second_opinion.json"

    @property
    def evaluations(self) -> Path:
        """The folder in which benchmarks keep what was generated for them (conf/benchmarks/_harness.yaml)."""
        return self.path / "evaluations"

    @property
    def checkpoints(self) -> Path:
        """The folder for checkpoints of the phase in progress."""
        return self.path / "checkpoints"

    def iteration(self, iteration: int) -> Path:
        """The folder of one iteration's weights and scores."""
        return self.path / f"{_ITERATION}{iteration}"

    @property
    def bank(self) -> Path:
        """The folder of the question bank (`rzero.runs.bank`)."""
        return self.path / "questions"

    def questions(self, iteration: int) -> Path:
        """The question bank's file of one iteration."""
        return self.bank / f"questions_{iteration}.jsonl"

    def scores(self, iteration: int) -> Path:
        """The evaluation of the Solver after an iteration (JSON)."""
        return self.iteration(iteration) / "evaluation.json"

    def weights(self, role: Role, iteration: int) -> Path:
        """The Hugging Face directory (with LoRA of PEFT's format) that a role's training leaves; absent when it was not
        trained.
        """
        return self.iteration(iteration) / role

    def evaluated(self) -> list[int]:
        """Iterations that have scores, in order."""
        return [iteration for iteration in self.iterations() if self.scores(iteration).is_file()]

    def iterations(self) -> list[int]:
        """Iterations that have a folder, in order."""
        names = [folder.name.removeprefix(_ITERATION) for folder in self.path.glob(f"{_ITERATION}*")]
        return sorted(int(name) for name in names if name.isdecimal())
