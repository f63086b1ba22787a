"""A pool of killable processes that compare answers with math-verify.

Why processes: a comparison of model text can run for ever inside one C call, where neither a thread nor a signal
handler of Python gets a turn (`9**9**9**9` holds the interpreter lock), and it can eat all memory. Why persistent: the
imports cost half a CPU second. Why a budget in CPU seconds: a verdict must not depend on how busy the machine is.

One worker is a small process tree: a *keeper* that has imported math-verify and does nothing but fork, and its current
*server*, which answers requests until it is killed. The kernel kills a server that exceeds its CPU budget (ITIMER_PROF
with the default action) or its address space; the keeper reports that and forks the next one in milliseconds. Texts and
booleans cross the pipe as JSON lines, nothing else. Neither process outlives the parent (PR_SET_PDEATHSIG, and end of
file on stdin).
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

_ROOT = Path(__file__).resolve().parents[2]
# Everything else in the environment (keys, tokens) stays with the parent: model text is handled in there.
_KEPT_VARIABLES = ("PATH", "LD_LIBRARY_PATH")
_READ_BYTES = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of one request: CPU seconds per stage (parse left, parse right, compare), MB of address space.

    `wall_seconds` is a backstop against a worker that is stuck without using CPU, not a budget: it must be far above
    what a loaded machine adds. `requests_per_server` bounds what one server can accumulate.
    """

    parse_cpu_seconds: float
    compare_cpu_seconds: float
    memory_mb: int
    wall_seconds: float
    requests_per_server: int


class Worker:
    """One keeper process and its pipes. `request` and `reply` work in lock step."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        environment = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
        # A fixed hash seed fixes the iteration order of sympy's sets, hence the verdicts.
        environment |= {"PYTHONPATH": str(_ROOT), "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "LC_ALL": "C.UTF-8"}
        arguments = [limits.parse_cpu_seconds, limits.compare_cpu_seconds, limits.memory_mb]
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-s", "-m", "rzero.grading._worker", str(os.getpid())]
            + [str(argument) for argument in [*arguments, limits.requests_per_server]],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            cwd="/",
            bufsize=0,
            start_new_session=True,
        )
        self._buffer = b""
        self.deadline = 0.0

    @property
    def pid(self) -> int:
        return self.process.pid

    def fileno(self) -> int:
        assert self.process.stdout is not None
        return self.process.stdout.fileno()

    def request(self, payload: list[str]) -> None:
        assert self.process.stdin is not None
        line = json.dumps(payload).encode("ascii") + b"\n"
        self.deadline = time.monotonic() + self._limits.wall_seconds
        view = memoryview(line)
        while view:
            view = view[self.process.stdin.write(view) :]

    def reply(self, *, ready: bool) -> dict[str, Any] | None:
        """The reply if it is complete, else None. Raises EOFError when the keeper is gone or, not `ready`, is stuck."""
        if not ready:
            raise EOFError(f"grading worker {self.pid} is stuck")
        chunk = os.read(self.fileno(), _READ_BYTES)
        if not chunk:
            raise EOFError(f"grading worker {self.pid} closed its pipe")
        self._buffer += chunk
        if not self._buffer.endswith(b"\n"):
            return None
        line, self._buffer = self._buffer, b""
        answer: dict[str, Any] = json.loads(line)
        if "lost" in answer:
            raise EOFError(f"grading worker {self.pid} lost its server")
        return answer

    def kill(self) -> None:
        """SIGKILL to the keeper and its server (one session), then reap. Never raises, never leaves a zombie."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        self.process.wait()


class WorkerPool:
    """Spreads requests over `workers` processes, which are started when first needed.

    `run(requests)` returns one reply per request, in order: what the server said, or {"died": reason} when it was
    killed by its budget. Replies do not depend on `workers`, on the order of requests or on earlier ones.
    """

    def __init__(self, *, workers: int, limits: Limits) -> None:
        if workers < 1:
            raise ValueError(f"grader.workers must be at least 1, got {workers}")
        self._count = workers
        self._limits = limits
        self._workers: list[Worker] = []
        self._owner = os.getpid()
        self._lock = threading.Lock()
        self.counters: Counter[str] = Counter()
        self._finalizer = weakref.finalize(self, _kill_all, self._workers, self._owner)

    @property
    def pids(self) -> list[int]:
        """Process ids of the keepers (for tests and for the curious)."""
        return [worker.pid for worker in self._workers]

    def run(self, requests: Sequence[list[str]]) -> list[dict[str, Any]]:
        with self._lock:
            self._forget_workers_of_parent()
            try:
                return self._run(requests)
            except BaseException:
                # An interrupted exchange leaves replies in the pipes: the next run must not read them.
                self._close()
                raise

    def _run(self, requests: Sequence[list[str]]) -> list[dict[str, Any]]:
        replies: list[dict[str, Any] | None] = [None] * len(requests)
        waiting = deque((index, 0) for index in range(len(requests)))
        while len(self._workers) < min(self._count, len(requests)):
            self._workers.append(Worker(self._limits))
        with selectors.DefaultSelector() as selector:
            for worker in self._workers[: len(requests)]:
                self._start(worker, waiting, requests, selector)
            while selector.get_map():
                ready = {key.fd for key, _ in selector.select(timeout=self._time_left(selector))}
                for worker, (index, attempt) in _pending(selector):
                    if worker.fileno() not in ready and time.monotonic() < worker.deadline:
                        continue
                    try:
                        answer = worker.reply(ready=worker.fileno() in ready)
                    except (OSError, EOFError, ValueError):
                        selector.unregister(worker)
                        worker = self._replace(worker)
                        if attempt == 0:
                            waiting.appendleft((index, 1))
                        else:
                            replies[index] = {"died": "lost"}
                    else:
                        if answer is None:
                            continue
                        selector.unregister(worker)
                        replies[index] = answer
                    self._start(worker, waiting, requests, selector)
        return [reply if reply is not None else {"died": "lost"} for reply in replies]

    def _start(
        self,
        worker: Worker,
        waiting: deque[tuple[int, int]],
        requests: Sequence[list[str]],
        selector: selectors.BaseSelector,
    ) -> None:
        """Hand the next waiting request to an idle worker; a worker found dead is replaced first."""
        if not waiting:
            return
        index, attempt = waiting.popleft()
        try:
            worker.request(requests[index])
        except OSError:
            worker = self._replace(worker)
            worker.request(requests[index])
        selector.register(worker, selectors.EVENT_READ, (index, attempt))

    def _time_left(self, selector: selectors.BaseSelector) -> float:
        return max(0.0, min(worker.deadline for worker, _ in _pending(selector)) - time.monotonic())

    def _replace(self, worker: Worker) -> Worker:
        self.counters["workers_replaced"] += 1
        worker.kill()
        fresh = Worker(self._limits)
        self._workers[self._workers.index(worker)] = fresh
        return fresh

    def _forget_workers_of_parent(self) -> None:
        """After a fork of this process the pipes are shared with the original owner: leave them to it."""
        if self._owner != os.getpid():
            self._finalizer.detach()
            self._workers = []
            self._owner = os.getpid()
            self._finalizer = weakref.finalize(self, _kill_all, self._workers, self._owner)

    def _close(self) -> None:
        _kill_all(self._workers, self._owner)

    def close(self) -> None:
        """Kill every worker. The pool starts new ones if it is used again."""
        with self._lock:
            self._forget_workers_of_parent()
            self._close()


def _pending(selector: selectors.BaseSelector) -> list[tuple[Worker, tuple[int, int]]]:
    """The workers that owe a reply, each with the index of its request and the number of the attempt."""
    return [(cast(Worker, key.fileobj), key.data) for key in list(selector.get_map().values())]


def _kill_all(workers: list[Worker], owner: int) -> None:
    if os.getpid() == owner:
        while workers:
            workers.pop().kill()
