"""Ctrl-C in the middle of a phase leaves a run that can be resumed, through the real command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments import PROJECT
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
def test_ctrl_c_stops_with_a_hint_and_the_run_goes_on_from_there(tmp_path: Path) -> None:
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

    # a second start of the same run while nobody holds it goes on behind the last complete stage
    resumed = start(f"resume={directory}")
    resumed.send_signal(0)
    while not any("solver/reward" in row for row in read_metrics(metrics)[-1:]) and time.monotonic() < deadline:
        assert resumed.poll() is None, resumed.stderr.read() if resumed.stderr else ""
        time.sleep(0.2)
    second = start(f"resume={directory}")
    _, refusal = second.communicate(timeout=120)
    assert second.returncode == 2
    assert f"in use by pid {resumed.pid}" in refusal
    resumed.send_signal(signal.SIGINT)
    resumed.communicate(timeout=60)
    stages = [row for row in read_metrics(metrics) if "challenger/reward" in row]
    assert len(stages) == 2, "the Challenger's phase was complete and must not be repeated"
