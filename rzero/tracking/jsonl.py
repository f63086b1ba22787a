"""The record of a run: metrics.jsonl, which a resumed run rewinds to its last complete stage."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rzero.types import Artifact, LabelledQuestion

TIME_PREFIXES = ("time/", "timing_s/", "perf/")
"""Metrics with these prefixes (after the stage) measure the machine; all others are the same for the same seed."""


def is_timing(name: str) -> bool:
    """Whether a metric measures the machine and not the method: `solver/timing_s/rollout`, `perf/peak_rss_gib`."""
    return name.startswith(TIME_PREFIXES) or f"/{name}".find("/timing_s/") >= 0 or "/perf/" in f"/{name}"


class JsonlTracker:
    """One JSON object a line: `{"step": 3, "solver/reward": 0.5, ...}`. Non-finite numbers are written as null."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 - lives as long as the run

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        row = {"step": step, "time/unix_s": round(time.time(), 3)}
        row.update({name: value if math.isfinite(value) else None for name, value in metrics.items()})  # type: ignore[misc]
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()

    def position(self) -> int:
        """Bytes that are safely on disk: what a resumed run keeps."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return self.path.stat().st_size

    def rewind(self, position: int) -> None:
        """Forget everything after `position`: the metrics of work that is about to be repeated."""
        self._file.close()
        os.truncate(self.path, position)
        self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115

    def questions(self, labelled: Sequence[LabelledQuestion], *, step: int) -> None: ...

    def artifact(self, made: Artifact) -> None: ...

    def close(self) -> None:
        self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All rows of a metrics file, in order."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
