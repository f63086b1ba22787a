"""A disk that fails: the k-th write, fsync or rename below a folder, once or from then on."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

REASONS = (errno.ENOSPC, errno.EIO)


@dataclass(slots=True, kw_only=True)
class FaultyDisk:
    """Operations are counted from 1; number `fail_at` fails.

    reason: the errno. lasting: everything afterwards fails too, as when a disk is full. short: a failing write takes
    half of its bytes first. `operations` counts, `failed` says whether the fault was reached.
    """

    folder: Path
    fail_at: int
    reason: int
    lasting: bool = False
    short: bool = False
    operations: int = 0
    failed: bool = field(default=False)

    @contextmanager
    def mounted(self) -> Iterator[FaultyDisk]:
        """Everything that goes through os.write, os.fsync and os.replace is on this disk while the context lasts."""
        real = {name: getattr(os, name) for name in ("write", "fsync", "replace")}
        try:
            for name, call in real.items():
                setattr(os, name, self._watched(name, call))
            yield self
        finally:
            for name, call in real.items():
                setattr(os, name, call)

    def _watched(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def watched(target: Any, *rest: Any) -> Any:
            path = Path(os.readlink(f"/proc/self/fd/{target}") if isinstance(target, int) else target)
            if not path.is_relative_to(self.folder):
                return call(target, *rest)
            self.operations += 1
            if self.operations == self.fail_at or (self.lasting and self.failed):
                first, self.failed = not self.failed, True
                if name == "write" and self.short and first and len(rest[0]) > 1:
                    return call(target, bytes(rest[0])[: len(rest[0]) // 2])  # the next write finds the disk full
                raise OSError(self.reason, os.strerror(self.reason))
            if name == "write" and self.short and self.failed:
                raise OSError(self.reason, os.strerror(self.reason))
            return call(target, *rest)

        return watched
