"""A multirun that is killed, fails in one job and is started again: what it repeats, what it reports, what it says."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from experiments.resolvers import jobs_at_once
from experiments.run import command
from experiments.sweeping.places import expand_sweep
from rzero.selfplay import SelfPlay
from tests.experiments.small import SHRUNK

ARGUMENTS = (
    *(text for text in SHRUNK if not text.startswith(("iterations", "solver.settings.samples"))),
    "iterations=1",
    "sweeps=group_size",
    "solver.settings.samples_per_prompt=4,1,2",  # 1 is no group and fails
    "hydra/launcher=basic",
)
Sweep = Callable[[], tuple[int, str, str]]


@pytest.fixture
def sweep(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Sweep:
    """`python -m experiments.run sweeps=group_size ...` in this process: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def run() -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["experiments/run.py", *ARGUMENTS])
        code: int | str | None = 0
        try:
            command()
        except SystemExit as stop:
            code = stop.code
        written = capsys.readouterr()
        return int(code or 0), written.out, written.err

    return run


def steps(directory: Path) -> list[str]:
    """What a run has completed, from its ledger."""
    return list(json.loads((directory / "state.json").read_text())["stages"])


@pytest.mark.slow
def test_a_killed_sweep_goes_on_a_failed_job_is_named_and_finished_ones_are_skipped(
    sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(SelfPlay, "fit_solver", _stopped)
        code, out, err = sweep()
    assert code == 1
    assert "the same command goes on" in err
    assert "job 1" not in out, "a stop by the user ends the sweep, not one job"
    [place] = (tmp_path / "multirun" / "group_size").iterdir()
    [first] = place.glob("samples_per_prompt-4_*")
    assert steps(first) == ["0/evaluation", "1/challenger", "1/questions"]
    challenger = (first / "iteration_1" / "challenger" / "model.safetensors").stat()

    code, out, err = sweep()
    assert code == 1
    assert "job 1" in err
    assert "samples_per_prompt=1" in err
    assert "at least 2, got 1" in err
    assert "job 0: finished" in out
    assert "job 2: finished" in out, "the job behind the failed one still runs"
    assert (first / "iteration_1" / "challenger" / "model.safetensors").stat() == challenger, "resumed, not repeated"

    code, out, _ = sweep()
    assert code == 1
    assert "job 0: skipped" in out
    assert "job 2: skipped" in out
    _check_report(place)


def _stopped(*_: object) -> str:
    raise KeyboardInterrupt


def _check_report(place: Path) -> None:
    figures = json.loads((place / "summary.json").read_text())
    assert [arm["name"] for arm in figures["arms"]] == ["samples_per_prompt=4", "samples_per_prompt=2"]
    first, second = figures["arms"]
    assert first["against_first"] is None
    assert second["against_first"]["over"] == "items"
    assert second["gain"]["points"] - first["gain"]["points"] == pytest.approx(second["against_first"]["points"])
    assert [job["state"] for job in figures["jobs"]] == ["skipped", "failed", "skipped"]
    text = (place / "report.md").read_text()
    assert "samples\\_per\\_prompt=4" in text or "samples_per_prompt=4" in text
    assert "at least 2, got 1" in text
    assert {path.name for path in place.glob("*.png")} == {"arms.png", "iterations.png"}


def test_a_sweep_is_where_it_was_the_last_time_whatever_the_order_and_the_launcher() -> None:
    [place] = {
        expand_sweep(arguments)[-1]
        for arguments in (
            ["sweeps=band", "seed=0,1", "iterations=1"],
            ["iterations=1", "sweeps=band", "seed=0,1"],
            ["iterations=1", "sweeps=band", "seed=0,1", "hydra/launcher=slurm"],
        )
    }
    assert place.startswith("hydra.sweep.dir=multirun/band/")
    assert place not in expand_sweep(["sweeps=band", "seed=0,1"])
    assert expand_sweep(["-m", "seed=0,1"])[-1].startswith("hydra.sweep.dir=multirun/overrides/")
    assert expand_sweep(["seed=1"]) == ["seed=1"], "a single run has its own rule"
    assert expand_sweep(["-m", "hydra.sweep.dir=here"]) == ["-m", "hydra.sweep.dir=here"]


def test_jobs_at_once_are_bounded_by_cores_and_by_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"available": 6 * 2**30}))
    assert jobs_at_once(1, 1.0, "cpu") == 6
    assert jobs_at_once(2, 1.0, "cpu") == 4
    assert jobs_at_once(1, 4.0, "cpu") == 1
    assert jobs_at_once(16, 64.0, "cpu") == 1, "a job that fits nowhere is still tried"
    assert jobs_at_once(1, 1.0, "gpu") == 1
