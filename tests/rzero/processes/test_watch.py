"""Whoever dies or fails ends all, while rank 0 is busy too, and is named."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from multiprocessing import Pipe
from pathlib import Path

import pytest

from rzero.processes.launch import launch
from rzero.processes.watch import Lost, _introduced
from tests.rzero.processes.workers import waiting_worker

PROJECT = Path(__file__).resolve().parents[3]


def lose_the_other(*, seconds: float) -> None:
    """Kill rank 1 and be busy: not in a collective, so that nothing but the watch can tell it."""
    with launch(size=2, worker=waiting_worker) as ranks:
        os.kill(ranks.gather(os.getpid())[1], signal.SIGKILL)
        killed = time.monotonic()
        while time.monotonic() < killed + seconds:
            time.sleep(0.1)  # stands for drawing and judging


def test_a_process_that_is_killed_ends_the_run_while_rank_0_is_at_work() -> None:
    with pytest.raises(Lost, match="another process of the run failed: rank 1 was ended by SIGKILL"):
        lose_the_other(seconds=50)


STUCK = """
import os, signal, sys, time
from rzero.processes import watch
from rzero.processes.launch import launch
from tests.rzero.processes.workers import waiting_worker
if __name__ == "__main__":
    watch._CLOSE_S = 1.0
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])  # as deaf as a main thread that waits for a GPU
    with launch(size=2, worker=waiting_worker) as ranks:
        os.kill(ranks.gather(os.getpid())[1], signal.SIGKILL)
        time.sleep(50)
"""


def test_a_process_that_hears_nothing_is_ended_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "stuck.py").write_text(STUCK)
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(tmp_path / "stuck.py")]
    done = subprocess.run(command, env=environment, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "error: another process of the run failed: rank 1 (pid " in done.stderr
    assert "is gone without a word" in done.stderr


@pytest.mark.parametrize("said", [b'["wrong", "rank 1"]', b"GET / HTTP/1.1", b'["\\u00e9", "rank 1"]', b"[]", b"7"])
def test_a_stranger_is_not_taken_for_a_process_of_the_run(said: bytes) -> None:
    here, there = Pipe()
    with here, there:
        there.send_bytes(said)
        assert not _introduced(here, "the key")
        there.send_bytes(b'["the key", "rank 1"]')
        assert _introduced(here, "the key") == "rank 1"
