"""Commands that a command starts and waits for: SIGTERM, which reaches the first alone, ends both in order."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from experiments import PROJECT

_STARTED: set[subprocess.Popen[str]] = set()
"""Those that are waited for, each by a thread of its own where several run at a time."""


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived: what a scheduler sends before it takes a machine away."""


@contextmanager
def terminable() -> Iterator[None]:
    """Make SIGTERM raise `Terminated` while the context lasts: all is closed in order, then the process ends.

    What `carry_out` has started gets the signal too, and is waited for. Signals belong to the main thread; where
    another one runs us, they stay as they are.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        for process in tuple(_STARTED):
            process.terminate()
        raise Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def carry_out(command: Sequence[str], *, log: Path | None) -> tuple[int, str]:
    """Carry out a command in a process of its own; return its exit code and what it said.

    log: a file that its output is added to as it comes, and read from there when the command fails; without one what is
    returned is its error output alone.
    """
    if log is None:
        return _wait(subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a+", encoding="utf-8", errors="replace") as file:
        start = file.seek(0, os.SEEK_END)
        code, _ = _wait(subprocess.Popen(command, cwd=PROJECT, stdout=file, stderr=file, text=True))
        file.seek(start)
        return code, file.read() if code else ""


def _wait(process: subprocess.Popen[str]) -> tuple[int, str]:
    with process:  # whatever interrupts us, it is waited for
        _STARTED.add(process)
        try:
            _, errors = process.communicate()
        finally:
            _STARTED.discard(process)
        return process.returncode, errors or ""
