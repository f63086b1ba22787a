"""The place of a run: a directory created exclusively, and locked while somebody works in it."""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import shlex
import shutil
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from rzero.runs.directory import RunDirectory

OUTPUTS = Path("outputs")
"""Where runs are written that were not told where."""


def create(path: Path) -> Path:
    """Make a fresh directory. FileExistsError when somebody already has it, OSError when it cannot be written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not _made(path):
        going_on = f", or go on with that run: {shlex.quote(f'resume={path}')}" if is_run(path) else ""
        raise FileExistsError(f"{path} exists already; choose another directory=...{going_on}")
    return path


def create_dated(name: str, seed: int) -> Path:
    """Make a fresh directory named by the second; of several runs that begin in one, the later ones get a number."""
    dated = OUTPUTS / name / f"{time.strftime('%Y-%m-%d_%H-%M-%S')}_seed{seed}"
    dated.parent.mkdir(parents=True, exist_ok=True)
    numbered = (dated.with_name(f"{dated.name}_{number}") for number in itertools.count(2))
    return next(path for path in itertools.chain([dated], numbered) if _made(path))


def _made(path: Path) -> bool:
    try:
        path.mkdir()
    except FileExistsError:
        return False
    return True


def discard(path: Path) -> None:
    """Remove a directory in which nothing was done yet, and the folders for runs of its name that are empty then."""
    shutil.rmtree(path, ignore_errors=True)
    for folder in (path.parent, path.parent.parent):
        if OUTPUTS in (folder, folder.parent):
            with suppress(OSError):
                folder.rmdir()


def is_run(directory: Path) -> bool:
    """Return whether a run began there."""
    there = RunDirectory(directory)
    return there.config.is_file() and there.state.is_file()


def runs_in(given: Sequence[Path]) -> list[Path]:
    """Return runs as they are given, and in place of a folder of runs all that are in it, by name.

    Raises FileNotFoundError for a folder without any, and for what is no folder.
    """
    return [run for path in given for run in _runs_in(path)]


DEEPEST = 5
"""Levels of folders that are looked through, as in outputs/results/<scale>/<arm>/<seed>."""


def _runs_in(path: Path) -> list[Path]:
    if RunDirectory(path).config.is_file():
        return [path]
    if not path.is_dir():
        what = "is a file" if path.exists() else "does not exist"
        raise FileNotFoundError(f"{path} {what}; give the directory of a run, or a folder of runs")
    if found := list(_below(path, DEEPEST)):
        return found
    raise FileNotFoundError(f"{path} is no run directory (it holds no config.yaml) and there is no run in it")


def _below(folder: Path, levels: int) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if is_run(path):
            yield path
        elif levels > 1 and path.is_dir() and not path.name.startswith("."):
            yield from _below(path, levels - 1)


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
