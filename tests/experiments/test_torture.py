"""The harness that kills runs, at the size of a test: some kills, all ends equal; and a short soak."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import experiments.torture.__main__ as torture_main
from experiments import PROJECT
from experiments.torture.__main__ import differing, main
from experiments.torture.plan import AtBoundary, AtInstant, boundaries, plan
from tests.experiments.small import config


def command(module: str, *arguments: str) -> dict[str, object]:
    """A process of its own, because it forks. What it prints as JSON."""
    done = subprocess.run(
        [sys.executable, "-m", module, "--json", *arguments],
        cwd=PROJECT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report: dict[str, object] = json.loads(done.stdout)
    return report


@pytest.mark.slow
def test_killed_runs_end_as_the_untouched_one_does() -> None:
    report = command("experiments.torture", "--kills", "4", "--seed", "3")
    assert report["kills"] == report["restarts"] == 4
    assert report["by_kind"] == {"AtBoundary": 2, "AtInstant": 1, "AtCall": 1}
    assert report["differing"] == 0
    assert report["most_rows_repeated"] in (0, 1), "with a checkpoint after every step"


@pytest.mark.slow
def test_three_iterations_leave_descriptors_and_threads_as_they_were() -> None:
    report = command("experiments.soak", "--iterations", "3")
    settled, last = report["after_iteration"][2:]  # type: ignore[index]
    assert (last["descriptors"], last["threads"]) == (settled["descriptors"], settled["threads"])


def test_all_boundaries_are_visited_when_there_are_kills_enough() -> None:
    cfg = config("experiment=shrunk")
    every = boundaries(cfg)
    stages = {boundary.stage for boundary in every}
    assert stages == {"0/evaluation"} | {
        f"{iteration}/{kind}" for iteration in (1, 2) for kind in ("challenger", "questions", "solver", "evaluation")
    }
    assert AtBoundary(stage="2/solver", step=2, after=True) in every
    assert len(every) == 2 * (9 + 2 * (1 + 2))
    kills = plan(cfg, kills=40, seed=0, seconds=10)
    assert kills[: len(every)] == every
    assert len(kills) == 40
    assert plan(cfg, kills=6, seed=0, seconds=10) == plan(cfg, kills=6, seed=0, seconds=10)
    assert plan(cfg, kills=6, seed=1, seconds=10) != plan(cfg, kills=6, seed=0, seconds=10)
    assert sum(isinstance(kill, AtBoundary) for kill in plan(cfg, kills=6, seed=0, seconds=10)) == 3


def test_a_machine_that_gets_faster_is_hit_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Instants are drawn for the run that was timed; later ones may end before an instant comes."""

    def attempt(cfg: object, directory: Path, *, kill: AtInstant | None = None, log: Path) -> bool:
        return kill is None or kill.seconds > 0.1

    monkeypatch.setattr(torture_main, "attempt", attempt)
    monkeypatch.setattr(torture_main, "plan", lambda *_, **__: [AtInstant(seconds=100.0), AtInstant(seconds=0.05)])
    monkeypatch.setattr(torture_main, "end_state", lambda _: {})
    monkeypatch.setattr(torture_main, "uncommitted_rows", lambda _: 0)
    report = torture_main.torture(config("experiment=shrunk"), kills=2, seed=0, folder=tmp_path)
    assert report["kills"] == 2
    assert report["runs"] == 11, "ten halvings bring 100 s below 0.1 s; both kills then hit the last run"


def test_what_differs_is_named() -> None:
    assert differing({"a": "1", "b": "2"}, {"a": "1", "b": "3", "c": "4"}) == ["b", "c"]
    assert differing({"a": "1"}, {"a": "1"}) == []


def test_a_wrong_number_of_kills_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--kills", "0"])
    assert "--kills must be at least 1, got 0" in capsys.readouterr().err
