"""The README's table is what the committed runs say, and the commands that make it work."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from evaluation.metrics import Scores
from experiments import PROJECT, readme, results, runs
from experiments.provenance import write_manifest
from experiments.recipe import modern
from experiments.reproduce import __main__ as overview
from rzero.runs.directory import RunDirectory
from rzero.types import Json
from tests.experiments.small import SHRUNK, config

SEEDS = [0, 1, 2]


@pytest.fixture
def stored_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is started is a failure."""

    def refuse(arm: runs.Arm, seed: int, store: runs.Store) -> None:
        pytest.fail(f"{store.folder(arm, seed)} is missing or of another recipe: python -m experiments.results micro")

    monkeypatch.setattr(runs, "execute", refuse)


@pytest.mark.usefixtures("stored_only")
def test_the_readme_block_is_regenerated_from_the_committed_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert results.main(["micro", "--seeds", "0", "1", "2", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert readme.block("micro", figures) == readme.current("micro")


def test_the_verdicts_in_the_readme_are_those_of_the_committed_studies() -> None:
    assert overview.verdicts() == readme.current("claims")


@pytest.mark.usefixtures("stored_only")
def test_the_committed_result_reaches_the_goal_and_beats_every_control(capsys: pytest.CaptureFixture[str]) -> None:
    results.main(["micro", "--seeds", "0", "1", "2", "--json"])
    figures = json.loads(capsys.readouterr().out)
    assert figures["mean_gain"] >= 6.49
    assert figures["min_gain"] > 0
    assert figures["gain_among_well_formed"] >= figures["mean_gain"] / 2
    assert set(figures["controls"]) == {"untrained Challenger", "format reward", "random reward"}
    assert all(gain < figures["mean_gain"] for gain in figures["controls"].values())
    assert figures["wall_minutes"] <= 15
    assert figures["peak_rss_gib"] < 3
    assert figures["seeds"] == SEEDS


def test_stored_scores_are_those_of_the_protocol() -> None:
    protocol = config().benchmarks
    folder = results.STORE / "micro" / "micro" / "seed0"
    base = Scores.from_json(json.loads((folder / "result.json").read_text())["scores"][0])
    assert protocol.source.source.split == "test"
    assert base.k == protocol.protocol.k
    assert {len(benchmark.outcomes) for benchmark in base.benchmarks} == {protocol.source.source["items"]}


def test_kept_runs_were_evaluated_by_todays_suite() -> None:
    """They name a suite of their own shape, which asked the same questions in the same way."""
    today = OmegaConf.to_container(config().benchmarks, resolve=False)
    saved = sorted(results.STORE.glob("micro/*/seed*/config.yaml"))
    assert len(saved) == 36
    for path in saved:
        then = OmegaConf.load(path)
        assert then.benchmarks["_target_"] == "evaluation.suite.Suite"
        assert OmegaConf.to_container(modern(then).benchmarks, resolve=False) == today
    once = modern(then)
    assert modern(once) == once, "a configuration of today comes back as it is"


def test_a_run_of_another_recipe_does_not_count(tmp_path: Path) -> None:
    saved = results.STORE / "micro" / "micro" / "seed0" / "config.yaml"
    assert runs.same_recipe(saved, config("seed=0"))
    assert not runs.same_recipe(saved, config("seed=1"))
    other = OmegaConf.load(saved)
    other.solver.optimizer.lr = 1.0
    OmegaConf.save(other, tmp_path / "config.yaml")
    assert not runs.same_recipe(tmp_path / "config.yaml", config("seed=0"))


@pytest.mark.usefixtures("stored_only")
def test_missing_runs_are_named_and_not_started(capsys: pytest.CaptureFixture[str]) -> None:
    assert results.main(["micro", "--seeds", "0", "77", "--json"]) == 1
    written = capsys.readouterr()
    assert written.out == ""
    assert "4 runs are missing; --run starts what is missing" in written.err
    assert "micro_random_reward, seed 77: there is no result.json in" in written.err


@pytest.mark.slow
def test_a_fresh_run_is_executed_and_kept(tmp_path: Path) -> None:
    """One shrunk run through the real command, from process to digest."""
    store = runs.Store(root=tmp_path / "store", work=tmp_path / "work", extra=(*SHRUNK, "iterations=1"))
    arm = results.ARMS["micro"]["R-Zero"]
    runs.execute(arm, 0, store)
    loaded = store.load(arm, 0)
    assert store.has(arm, 0)
    assert len(loaded.scores) == 2
    assert loaded.wall_minutes > 0
    assert 0 < loaded.peak_rss_gib < 8
    assert "audit/level" in loaded.iterations[1]
    assert (PROJECT / "README.md").exists()


def test_the_memory_of_a_run_is_that_of_all_its_processes_where_it_is_known() -> None:
    attempts = [{"peak_rss_gib": 2.0, "peak_rss_all_gib": 2.5}, {"peak_rss_gib": 2.25}, {}]
    assert runs.peak_rss_gib({"attempts": attempts}) == 2.5
    assert runs.peak_rss_gib({"attempts": attempts[1:]}) == 2.25
    assert runs.knows_peak({"attempts": [{**attempts[0], "started_unix_s": 0.0, "finished_unix_s": 1.0}]})


def test_a_killed_attempt_is_known_by_the_stages_of_its_run(tmp_path: Path) -> None:
    """Nobody wrote down when it ended; without its stages a run of hours would pass for one of minutes."""
    cfg, path = runs.composed(()), RunDirectory(tmp_path).manifest
    stages: list[Json] = [{"seconds": 3000.0, "peak_rss_gib": 4000.0}, {"seconds": 600.0, "peak_rss_gib": 1.0}]
    for finished in (False, False, True):  # killed, resumed, finished
        write_manifest(tmp_path, cfg, finished=finished, stages=stages if finished else ())
    manifest = json.loads(path.read_bytes())
    assert runs.wall_minutes(manifest) == 60.0
    assert runs.said_minutes(manifest) == "≥ 60", "what a killed stage had done is not in it"
    assert runs.peak_rss_gib(manifest) == 4000.0
    assert runs.knows_peak(manifest)
    assert runs.said_peak(manifest) == "4000.0"
    write_manifest(tmp_path, cfg, finished=True, stages=[*stages, {"seconds": 1.0}])
    manifest = json.loads(path.read_bytes())
    assert not runs.knows_peak(manifest), "a stage of an earlier version says nothing of its memory"
    assert 0 < runs.peak_rss_gib(manifest) < 4000.0, "of the last attempt alone"
    assert runs.said_peak(manifest).startswith("≥ ")
    ended = {"attempts": [{"started_unix_s": 0.0, "finished_unix_s": 60.0}], "stages": {"seconds": 3000.0}}
    assert runs.wall_minutes(ended) == 1.0, "an attempt that ended knows better"
    assert runs.said_minutes(ended) == "1"
