"""The ledger of a run: the stages that are complete, from which it resumes.

`state.json` names the completed stages in order, and, inside a phase, its last checkpoint. Each entry holds the sha256
of every file it left behind and of the metrics up to its end. Files are durable before their entry is added, and it
is added in one atomic write, so whatever the ledger names is complete, and whatever it does not name is done again.
Before anything is used it is compared with its entry (`recover`).

The file holds a checksum of itself; `state.previous.json` is the state before the last commit, for when a disk loses
the newest one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rzero.durable import damage, set_aside, write_atomically
from rzero.runs.directory import RunDirectory
from rzero.types import Json


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """The committed part of a metrics file: its size in bytes, and the sha256 of them."""

    size: int = 0
    sha256: str = hashlib.sha256().hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """A record of what is safe on disk: what was done, its files with their sha256, metrics and their step so far."""

    result: Json
    files: Mapping[str, str]
    metrics: Position
    step: int

    def to_json(self) -> Json:
        metrics = {"size": self.metrics.size, "sha256": self.metrics.sha256}
        return {**self.result, "files": dict(self.files), "metrics": metrics, "step": self.step}

    @classmethod
    def from_json(cls, entry: Json) -> Commit:
        result = {key: value for key, value in entry.items() if key not in ("files", "metrics", "step")}
        return cls(result=result, files=entry["files"], metrics=Position(**entry["metrics"]), step=entry["step"])

    def damage(self, directory: Path, metrics: bytes) -> str | None:
        """Returns a sentence on what is not as it was committed; None when all of it is."""
        if len(metrics) < self.metrics.size:
            return f"{RunDirectory(directory).metrics} is shorter than it was"
        if hashlib.sha256(memoryview(metrics)[: self.metrics.size]).hexdigest() != self.metrics.sha256:
            return f"{RunDirectory(directory).metrics} is not what was written (its sha256 differs)"
        return damage(directory, self.files)


NOTHING_DONE = Commit(result={}, files={}, metrics=Position(), step=0)


@dataclass(slots=True, kw_only=True)
class Ledger:
    """The completed stages, the checkpoint of the stage in progress, and the configuration they belong to.

    `step` counts the rows of metrics, also of those that are not committed yet. `notes` says what had to be given up.
    """

    path: Path
    stages: dict[str, Commit] = field(default_factory=dict)
    checkpoint: Commit | None = None
    config: str = ""
    step: int = 0
    notes: list[str] = field(default_factory=list)
    _intact: bytes = b""  # the newest state that is known to be whole on disk

    @classmethod
    def open(cls, path: Path) -> Ledger:
        """Read the ledger, or start an empty one. A damaged one is replaced by the state before it, with a note.

        Raises ValueError when neither is a ledger.
        """
        if not path.exists() and not _previous(path).exists():
            return cls(path=path)
        try:
            return cls._read(path, path)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            try:
                ledger = cls._read(path, _previous(path))
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                raise ValueError(
                    f"{path} is no state file of a run ({error}); restore it or start a new run"
                ) from error
            ledger.notes.append(f"{path} is damaged ({error}); going on from the state before it")
            return ledger

    @classmethod
    def _read(cls, path: Path, source: Path) -> Ledger:
        written = source.read_bytes()
        state = json.loads(written)
        if state.pop("sha256") != _checksum(state):
            raise ValueError("its checksum differs")
        ledger = cls(
            path=path,
            stages={name: Commit.from_json(entry) for name, entry in state["stages"].items()},
            checkpoint=Commit.from_json(state["checkpoint"]) if state["checkpoint"] else None,
            config=state["config"],
            _intact=written,
        )
        ledger.step = ledger.last.step
        return ledger

    @property
    def last(self) -> Commit:
        """The newest thing that is safe."""
        return self.checkpoint or next(reversed(self.stages.values()), NOTHING_DONE)

    def begin(self, config: str) -> None:
        """Commit that nothing is done yet, and the configuration that everything will belong to."""
        self.config = config
        self._write()

    def done(self, stage: str) -> bool:
        return stage in self.stages

    def paused(self, stage: str) -> Json | None:
        """Returns what the stage's checkpoint says; None when it has none."""
        if self.checkpoint is None or self.checkpoint.result["stage"] != stage:
            return None
        return self.checkpoint.result

    def complete(self, stage: str, result: Json, *, files: Mapping[str, str], metrics: Position) -> None:
        """Commit a stage. The caller has already made its files durable."""
        self.stages[stage] = Commit(result=result, files=files, metrics=metrics, step=self.step)
        self.checkpoint = None
        self._write()

    def pause(self, stage: str, result: Json, *, files: Mapping[str, str], metrics: Position) -> None:
        """Commit a checkpoint inside a stage; it replaces the one before."""
        self.checkpoint = Commit(result={"stage": stage, **result}, files=files, metrics=metrics, step=self.step)
        self._write()

    def recover(self, directory: Path) -> None:
        """Go back to what is whole on disk (`forget_damaged`). Files of what is given up are moved to `set_aside/`:
        work that is repeated must not find them, and nothing is deleted that somebody may still want.
        """
        set_aside(directory, self.forget_damaged(directory))
        if self.notes:
            self._write()

    def forget_damaged(self, directory: Path) -> list[str]:
        """Compare everything with its fingerprint. The first damaged stage and all later ones are to be done again.

        `notes` says what was found. Returns the files of what was given up. Nothing on disk is touched.
        """
        metrics = RunDirectory(directory).metrics
        written = metrics.read_bytes() if metrics.exists() else b""
        forgotten: list[str] = []
        for number, commit in enumerate(list(self.stages.values())):
            if reason := commit.damage(directory, written):
                again = list(self.stages)[number:]
                for name in again:
                    forgotten += self.stages.pop(name).files
                self.checkpoint = None
                self.notes.append(f"{reason}; {', '.join(again)} will be done again")
                break
        if self.checkpoint and (reason := self.checkpoint.damage(directory, written)):
            self.notes.append(f"{reason}; {self.checkpoint.result['stage']} starts again from its first step")
            self.checkpoint = None
        self.step = self.last.step
        return forgotten

    def _write(self) -> None:
        state = {
            "stages": {name: commit.to_json() for name, commit in self.stages.items()},
            "checkpoint": self.checkpoint.to_json() if self.checkpoint else None,
            "config": self.config,
        }
        if not self._intact:
            self._intact = _dump({"stages": {}, "checkpoint": None, "config": self.config})
            write_atomically(self.path, self._intact)
        write_atomically(_previous(self.path), self._intact)
        written = _dump(state)
        write_atomically(self.path, written)
        self._intact = written


def _previous(path: Path) -> Path:
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def _dump(state: Json) -> bytes:
    return json.dumps({"sha256": _checksum(state), **state}, indent=1).encode()


def _checksum(state: Json) -> str:
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()
