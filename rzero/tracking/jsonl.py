"""The record of a run: metrics.jsonl, which a resumed run rewinds to its last complete stage."""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from rzero.durable import write_all
from rzero.runs.ledger import Position
from rzero.types import Artifact, Json, LabelledQuestion

TIME_PREFIXES = ("time/", "timing_s/", "perf/")
"""Metrics with these prefixes (after the stage) measure the machine; all others are the same for the same seed."""


def is_timing(name: str) -> bool:
    """Returns whether a metric measures the machine, as `solver/timing_s/rollout` and `perf/peak_rss_gib` do."""
    return name.startswith(TIME_PREFIXES) or f"/{name}".find("/timing_s/") >= 0 or "/perf/" in f"/{name}"


class JsonlTracker:
    """One JSON object a line: `{"step": 3, "solver/reward": 0.5, ...}`. Non-finite numbers are written as null."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._open()

    def _open(self) -> None:
        self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115 - lives as long as the run
        written = self.path.read_bytes()
        self._size, self._digest = len(written), hashlib.sha256(written)

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        finite = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        row = {"step": step, "time/unix_s": round(time.time(), 3), **finite}
        line = json.dumps(row).encode() + b"\n"
        try:
            write_all(self._file.fileno(), line)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error
        self._size += len(line)
        self._digest.update(line)

    def position(self) -> Position:
        """Returns what is safely on disk now and a resumed run keeps. Raises OSError when the disk does not take it."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error
        return Position(size=self._size, sha256=self._digest.hexdigest())

    def rewind(self, size: int) -> None:
        """Forgets everything after the first `size` bytes: the metrics of work that is about to be repeated."""
        self._file.close()
        os.truncate(self.path, size)
        self._open()

    def questions(self, labelled: Sequence[LabelledQuestion], *, step: int) -> None: ...

    def artifact(self, made: Artifact) -> None: ...

    def close(self) -> None:
        self._file.close()


def read_metrics(path: Path) -> list[Json]:
    """Returns all rows of a metrics file, in order."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
