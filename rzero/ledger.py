"""What a run has already done: the memory that makes it resumable.

`state.json` names the completed stages in order. A stage's files are durable before its name is added, and the name is
added in one atomic write, so whatever the ledger names is complete, and whatever it does not name is done again.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rzero.durable import write_atomically


@dataclass(slots=True)
class Ledger:
    """Completed stages with what they returned, and how far the metrics file and its step counter had come."""

    path: Path
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)
    metrics_bytes: int = 0
    step: int = 0

    @classmethod
    def open(cls, path: Path) -> Ledger:
        """Read the ledger, or start an empty one. Raises ValueError when the file is not a ledger."""
        if not path.exists():
            return cls(path=path)
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            return cls(path=path, stages=data["stages"], metrics_bytes=data["metrics_bytes"], step=data["step"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is no state file of a run ({error}); restore it or start a new run") from error

    def done(self, stage: str) -> bool:
        return stage in self.stages

    def complete(self, stage: str, result: dict[str, Any], *, metrics_bytes: int, step: int) -> None:
        """Commit a stage. The caller has already made its files durable."""
        self.stages[stage] = result
        self.metrics_bytes, self.step = metrics_bytes, step
        data = {"stages": self.stages, "metrics_bytes": metrics_bytes, "step": step}
        write_atomically(self.path, json.dumps(data, indent=1).encode())
