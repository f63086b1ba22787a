"""The place of a run: a directory created exclusively, and locked while somebody works in it."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rzero.runs.directory import RunDirectory


def create(path: Path) -> Path:
    """Make a fresh directory. FileExistsError when somebody already has it, OSError when it cannot be written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.mkdir()
    except FileExistsError:
        raise FileExistsError(
            f"{path} exists already; choose another directory=... or continue that run with resume={path}"
        ) from None
    return path


def default_path(name: str, seed: int) -> Path:
    return Path("outputs") / name / f"{time.strftime('%Y-%m-%d_%H-%M-%S')}_seed{seed}"


def finished(directory: Path) -> bool:
    """Return whether a run there came to its end (run.json). A damaged file says nothing: going on repairs it."""
    try:
        return bool(json.loads(RunDirectory(directory).manifest.read_bytes())["finished"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return False


@contextmanager
def locked(directory: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold the directory. Raises RuntimeError naming pid and host when another process does, unless told to `wait`."""
    with open(directory / ".lock", "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            file.seek(0)
            raise RuntimeError(f"{directory} is in use by {file.read().strip() or 'another process'}") from None
        file.truncate(0)
        file.write(f"pid {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield
