"""The program a grading worker runs: `python -m rzero.grading._worker PARENT PARSE_CPU COMPARE_CPU MEMORY_MB REQUESTS`.

The keeper (this process) imports math-verify, then forks one server at a time. The server answers JSON lines from stdin
until the kernel kills it for exceeding its budget; the keeper then answers {"died": ...} in its place and forks again.
"""

from __future__ import annotations

import gc
import json
import mmap
import os
import resource
import signal
import sys
import time

from rzero.processes.parent import die_with

_DONE, _RECYCLE = 0, 3
_STAGES = {1: "parse_left", 2: "parse_right", 3: "compare"}


def main(arguments: list[str]) -> None:
    parent, parse_cpu, compare_cpu, memory_mb, requests = arguments
    die_with(int(parent))
    from rzero.grading import symbolic

    symbolic.warm_up()
    gc.freeze()
    stage = mmap.mmap(-1, 1)  # shared with the server: what it was doing when it died, 0 = nothing
    keeper = os.getpid()
    while True:
        stage[0] = 0
        pid = os.fork()
        if pid == 0:
            die_with(keeper)
            _limit_memory(int(memory_mb))
            os._exit(_serve(symbolic, stage, (float(parse_cpu), float(compare_cpu)), int(requests)))
        _, status, _ = os.wait4(pid, 0)
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) == _DONE:
            return
        if stage[0]:
            _write({"died": _cause(status), "stage": _STAGES[stage[0]]})
        elif not (os.WIFEXITED(status) and os.WEXITSTATUS(status) == _RECYCLE):
            _write({"lost": True})  # killed from outside between requests, perhaps with one read but not begun


def _limit_memory(megabytes: int) -> None:
    limit = megabytes << 20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def _serve(symbolic, stage: mmap.mmap, budgets: tuple[float, float], requests: int) -> int:  # type: ignore[no-untyped-def]
    """Answer requests until stdin ends (0) or it is time for a fresh server (3)."""
    signal.signal(signal.SIGPROF, signal.SIG_DFL)

    def enter(number: int) -> None:
        """Start stage `number` (0: idle) with a CPU budget of its own."""
        budget = (0.0, budgets[0], budgets[0], budgets[1])[number]
        stage[0] = number
        signal.setitimer(signal.ITIMER_PROF, budget)

    for _ in range(requests):
        line = _read_line()
        if not line:
            return _DONE
        started = time.process_time()
        found, error = symbolic.answer(json.loads(line), enter)
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        used = time.process_time() - started
        stage[0] = 0
        _write({"answer": found, "error": error, "cpu_seconds": used})
    return _RECYCLE


def _read_line() -> bytes:
    """One request. Unbuffered, because what the server has read but not answered would die with it."""
    chunks = []
    while chunk := os.read(0, 1 << 16):
        chunks.append(chunk)
        if chunk.endswith(b"\n"):
            return b"".join(chunks)
    return b""


def _write(reply: dict[str, object]) -> None:
    view = memoryview(json.dumps(reply).encode("ascii") + b"\n")
    while view:
        view = view[os.write(1, view) :]


def _cause(status: int) -> str:
    """cpu: over the CPU budget. memory: left by the out-of-memory path. Otherwise the signal or exit code."""
    if os.WIFSIGNALED(status):
        return "cpu" if os.WTERMSIG(status) == signal.SIGPROF else f"signal {os.WTERMSIG(status)}"
    return f"exit {os.WEXITSTATUS(status)}"


if __name__ == "__main__":
    main(sys.argv[1:])
