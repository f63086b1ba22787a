"""Ctrl-C in the middle of a phase leaves a run that can be resumed; one process at a time holds a run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments import PROJECT, rundir
from rzero.ledger import Ledger
from rzero.tracking import read_metrics
from tests.experiments.small import SHRUNK


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "experiments.run", *arguments],
        cwd=PROJECT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_ctrl_c_stops_with_a_hint_and_keeps_the_complete_stages(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    arguments = [*SHRUNK, "iterations=1", "solver.settings.steps=200", f"directory={directory}"]
    process = start(*arguments)
    metrics = directory / "metrics.jsonl"
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        if metrics.exists() and any("solver/reward" in row for row in read_metrics(metrics)):
            break
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1, errors
    assert "stopped by the user" in errors
    assert f"resume={directory}" in errors

    ledger = Ledger.open(directory / "state.json")
    assert list(ledger.stages) == ["0/evaluation", "1/challenger", "1/questions"]


def test_a_directory_is_held_by_one_process_at_a_time(tmp_path: Path) -> None:
    with rundir.locked(tmp_path), pytest.raises(RuntimeError, match=f"in use by pid {os.getpid()}"):  # noqa: SIM117
        with rundir.locked(tmp_path):
            pass
    with rundir.locked(tmp_path):
        pass
