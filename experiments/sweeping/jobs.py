"""How a job of a sweep ended: one small file each, written wherever the launcher ran it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from rzero.durable import write_atomically

State = Literal["started", "finished", "skipped", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job and how it ended: `started` still runs or was killed; `skipped` was finished by an earlier attempt.

    overrides: of this job, `key=value`. name: those of them that people know it by. directory: its run, empty when it
    never had one. message: what went wrong.
    """

    number: int
    overrides: tuple[str, ...]
    name: str
    state: State
    directory: str = ""
    message: str = ""

    @property
    def done(self) -> bool:
        return self.state in ("finished", "skipped")


def folder(sweep: Path) -> Path:
    return sweep / "jobs"


def log_path(sweep: Path, number: int) -> Path:
    """Return the file of what a job printed."""
    return folder(sweep) / f"{number}.log"


def forget(sweep: Path) -> None:
    """Remove the records of an earlier attempt: the one that begins writes all of them again, skipped jobs too."""
    for path in folder(sweep).glob("*.json"):
        path.unlink()


def write(sweep: Path, job: Job) -> None:
    write_atomically(folder(sweep) / f"{job.number}.json", json.dumps(asdict(job), indent=1).encode())


def read(sweep: Path) -> list[Job]:
    """All jobs of the last attempt, in order."""
    records = [json.loads(path.read_text(encoding="utf-8")) for path in folder(sweep).glob("*.json")]
    jobs = [replace(Job(**record), overrides=tuple(record["overrides"])) for record in records]
    return sorted(jobs, key=lambda job: job.number)
