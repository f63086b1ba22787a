"""Sides of a benchmark, each in a process of its own, which the parent tells one after the other what to do.

The parent writes a command as a line; the side prints one JSON object for it (`answer`), among whatever else libraries
print.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from experiments import PROJECT
from rzero.types import Json


def under_way(what: str) -> None:
    """Says what is being measured, beside the figures: some steps take a quarter of an hour."""
    print(f"  {what} ...", file=sys.stderr, flush=True)


class Side:
    """The process `python -m <worker> <arguments>`; `paths` are searched for modules before those that are installed.

    by_cpu: threads that wait for their neighbours sleep, so that waiting is not counted as CPU seconds. Where wall time
    is measured they wait as they do for users: waking up takes a good part of a small product's time.
    """

    def __init__(
        self, worker: str, *arguments: str, threads: int = 1, paths: Sequence[Path] = (), by_cpu: bool = True
    ) -> None:
        self._what = (worker, *arguments)
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", *self._what],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={
                **os.environ,
                "OMP_NUM_THREADS": str(threads),
                **({"OMP_WAIT_POLICY": "PASSIVE"} if by_cpu else {}),
                "PYTHONPATH": os.pathsep.join(map(str, (PROJECT, *paths))),
            },
        )

    def step(self, command: str) -> Json:
        """Returns the answer to a command. Raises RuntimeError, saying what to run, where the side has ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(command + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # the loop below finds nothing
        for line in self._process.stdout:
            if line.startswith('{"bench"'):  # libraries print to stdout, too
                answer: Json = json.loads(line)["bench"]
                return answer
        worker, *arguments = self._what
        told = " ".join(f"'{argument}'" if "{" in argument else argument for argument in arguments)
        raise RuntimeError(f"a side of the benchmark ended; see: {sys.executable} -m {worker} {told}")

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


def answer(figures: Json) -> None:
    """Answers the parent's command; what a side prints besides does not begin like this."""
    print(json.dumps({"bench": figures}), flush=True)


class Clock:
    """CPU seconds of this process since `start`."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        self._started = time.process_time()

    def seconds(self) -> float:
        return time.process_time() - self._started
