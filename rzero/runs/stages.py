"""The stages of a run, each done once: what is complete, what was measured, and what is said about it.

A stage is named `iteration/kind`, such as `2/solver`. It is committed to the ledger when its files are safe, and a
stage that the ledger names is skipped. Between two commits a phase may be paused at a checkpoint.
"""

from __future__ import annotations

import gc
import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

from rzero.collapse import CollapseMonitor
from rzero.durable import fingerprints, write_atomically
from rzero.interfaces import EvaluationScores, Progress, Tracker
from rzero.prices import Prices
from rzero.processes.memory import give_back, peak_resident_gib
from rzero.processes.ranks import Ranks
from rzero.roles import Role
from rzero.runs.directory import RunDirectory
from rzero.runs.health import GraderHealth
from rzero.runs.ledger import Ledger, Position
from rzero.runs.progress import Narrator, Part
from rzero.types import Artifact, Json

Kind: TypeAlias = Role | Literal["questions", "evaluation"]

_TITLES: Mapping[Kind, str] = {
    "challenger": "Challenger",
    "questions": "questions",
    "solver": "Solver",
    "evaluation": "evaluation",
}


class Record(Protocol):
    """The file of metrics that a resumed run is rewound to."""

    def position(self) -> Position:
        """Returns what of it is safely on disk now."""


@dataclass(slots=True, kw_only=True)
class Stages:
    """The bookkeeping of a run. Only the first of several processes writes.

    tracker: everything that metrics are sent to, `record` among it. health: watches the grader. collapse: watches the
    metrics. checkpoint_every: steps between checkpoints inside a phase; 0: none, a stopped phase starts again. prices:
    what parts beyond the paper cost since the last row of metrics.
    """

    directory: RunDirectory
    ledger: Ledger
    record: Record
    tracker: Tracker
    narrator: Narrator
    health: GraderHealth
    collapse: CollapseMonitor
    checkpoint_every: int = 0
    prices: Prices = field(default_factory=Prices)
    ranks: Ranks = field(init=False, default_factory=Ranks)
    iterations: int = field(init=False, default=0)
    iteration: int = field(init=False, default=0)
    kind: Kind = field(init=False, default="evaluation")
    sign: str = field(init=False, default="")
    _began: float = field(init=False, default=0.0)

    def open(self, ranks: Ranks, *, iterations: int) -> None:
        """Begins an attempt at the run: among which processes, and how many iterations it is to have."""
        self.ranks, self.iterations = ranks, iterations

    def run(self, kind: Kind, iteration: int, work: Callable[[int], str]) -> None:
        """Does a stage by `work(iteration)`, which returns a summary of a few words, unless it is complete."""
        self.kind, self.iteration, self.sign = kind, iteration, ""
        if self.ledger.done(self.name):
            return
        self._began = time.monotonic() - self.paused().get("seconds", 0.0)
        summary = work(iteration)
        peak_rss_gib = peak_resident_gib()  # helpers that end with the stage are still there
        _free_memory()
        result = {
            "summary": summary,
            "seconds": self._seconds(),
            "peak_rss_gib": round(peak_rss_gib, 3),
            **({"rolled_back": self.sign} if self.sign else {}),
        }
        self.watch("writing down what was made")
        self.ranks.shared(self._complete)(self.name, result)
        self.narrator.end(summary)
        if warning := self.health.take_warning():
            self.narrator.say(warning)

    @property
    def name(self) -> str:
        """The name of the stage in progress."""
        return f"{self.iteration}/{self.kind}"

    @property
    def results(self) -> list[Json]:
        """What each complete stage says about itself: a summary, its seconds, and peak memory up to its end (GiB).

        The seconds are of all attempts at it, without what a killed one did after its last checkpoint.
        """
        return [done.result for done in self.ledger.stages.values()]

    def expect(self, *, steps: int) -> None:
        """Announces the stage in progress and how often it will advance."""
        place = f"iteration {self.iteration}/{self.iterations}" if self.iteration else "base model"
        self.narrator.begin(f"{place} · {_TITLES[self.kind]}", steps)

    def advance(self, note: str = "", steps: int = 1) -> None:
        self.narrator.advance(note, steps)

    def watch(self, what: str) -> Progress:
        """Says that a part of a step begins, such as `drawing, responses`; returns what is told how far it is."""
        return Part(what, tell=self.narrator.now)

    def warn(self, text: str) -> None:
        self.narrator.say(f"warning: {text}")

    def roll_back(self, sign: str) -> None:
        """Notes that nothing is to be learned from what the stage in progress leaves, and why."""
        self.sign = sign

    def rolled_back(self, kind: Kind, iteration: int) -> str:
        """Returns the sign that a complete stage was rolled back at; empty where it was not."""
        return self.ranks.shared(self._rolled_back)(f"{iteration}/{kind}")

    def _rolled_back(self, name: str) -> str:
        return str(self.ledger.stages[name].result.get("rolled_back", ""))

    # ---- what a stage leaves -------------------------------------------------------------------------------------

    def log(self, metrics: Mapping[str, float]) -> None:
        """Adds a row of metrics, with the iteration in front and prices behind."""
        self.ledger.step += 1
        row = {"iteration": float(self.iteration), **metrics, **self.prices.take()}
        self.tracker.log(row, step=self.ledger.step)

    def keep_scores(self, scores: EvaluationScores) -> None:
        """Writes an evaluation to disk and logs its metrics."""
        self.ranks.shared(write_atomically)(self.output, json.dumps(scores.to_json()).encode())
        self.log({**scores.metrics(), **self.health.look()})

    def made(self, kind: Literal["questions"] | Role, *, made_of: tuple[str, ...]) -> None:
        """Tells the tracker that the stage's output is on disk, and of which earlier artifacts it was made."""
        self.tracker.artifact(Artifact(kind=kind, iteration=self.iteration, path=self.output, made_of=made_of))

    @property
    def output(self) -> Path:
        """The file or folder that the stage in progress leaves; a role that was not trained leaves none."""
        match self.kind:
            case "questions":
                return self.directory.questions(self.iteration)
            case "evaluation":
                return self.directory.scores(self.iteration)
            case "challenger" | "solver":
                return self.directory.weights(self.kind, self.iteration)

    def _complete(self, name: str, result: Json) -> None:
        files = fingerprints([self.output], root=self.directory.path) if self.output.exists() else {}
        self.ledger.complete(name, result, files=files, metrics=self.record.position())
        shutil.rmtree(self.directory.checkpoints, ignore_errors=True)

    # ---- checkpoints inside a phase ------------------------------------------------------------------------------

    def paused(self) -> Json:
        """Returns what the checkpoint of the stage in progress says, its `path` made absolute; empty without one."""
        found = self.ledger.paused(self.name)
        return {**found, "path": self.directory.path / found["path"]} if found else {}

    def checkpoint_due(self, done: int, *, of: int) -> bool:
        """Returns whether a checkpoint is to be made after step `done` of the phase; never after the last one."""
        return bool(self.checkpoint_every) and done % self.checkpoint_every == 0 and done < of

    def checkpoint_path(self, done: int) -> Path:
        return self.directory.checkpoints / f"{self.iteration}_{self.kind}_{done}"

    def pause(self, path: Path, result: Json) -> None:
        """Commits the checkpoint in folder `path`; earlier ones go. Every rank calls this."""
        self.ranks.shared(self._pause)(path, result)

    def _pause(self, path: Path, result: Json) -> None:
        root = self.directory.path
        result = {**result, "path": path.relative_to(root).as_posix(), "seconds": self._seconds()}
        self.ledger.pause(self.name, result, files=fingerprints([path], root=root), metrics=self.record.position())
        for other in path.parent.iterdir():
            if other != path:
                shutil.rmtree(other)

    def _seconds(self) -> float:
        """Returns what the stage in progress has taken, attempts up to its checkpoint among it."""
        return round(time.monotonic() - self._began, 3)


def _free_memory() -> None:
    """Lets go of what a stage leaves behind: module, trainer and hooks hold one another in cycles.

    Python would find them some day; until then a phase's weights and optimiser stay beside the next one's.
    """
    gc.collect()
    give_back()
