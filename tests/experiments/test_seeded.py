"""Studies whose arms have seeds of their own: run, kept in 20 KB, gone on with."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from experiments import runs
from experiments.reproduce import compact, rounded_rollouts, seeded
from experiments.reproduce.half_billion import __main__ as command
from experiments.reproduce.seeded import SeededStudy
from rzero.runs.directory import RunDirectory
from rzero.types import Json
from tests.experiments.invented_study import asked, scores


def test_the_rounded_arms_differ_from_float32_in_the_engine_and_the_correction() -> None:
    exact, *rounded = (rounded_rollouts.STUDY.config(name, 0) for name in rounded_rollouts.STUDY.arms)
    assert (exact.engine.dtype, exact.iterations, exact.policy.lora) == (None, 3, None)
    assert [cfg.engine.dtype for cfg in rounded] == ["int8", "int8"]
    assert [cfg.solver.loss.mismatch is not None for cfg in rounded] == [True, False]
    assert [cfg.challenger.loss.mismatch is not None for cfg in rounded] == [True, False]
    for cfg in rounded:
        cfg.engine.dtype, cfg.solver.loss.mismatch, cfg.challenger.loss.mismatch = None, None, None
        assert cfg == exact


def test_a_kept_run_is_small_whole_and_tells_no_place(made_up: SeededStudy) -> None:
    folder = made_up.folder("rzero", 0)
    assert {path.name for path in folder.iterdir()} == {compact.CONFIG, "run.json", compact.RESULT}
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 20 * 1024
    assert compact.load(folder, 0).config.benchmarks.source.data_dir is None
    [run, *_] = made_up.kept("rzero")
    assert run.scores[2].to_json() == scores(0.35).to_json()
    assert len(run.curves["2"]["solver"]["reward"]) == 30
    assert {"posed/well_formed", "posed/distinct", "posed/in_band", "curriculum/kept"} <= run.rounds[1].keys()
    assert run.truncated[2]["gsm8k"] == {"greedy": 0.02, "sampled": 0.02}
    assert {question["outcome"] for question in run.questions["1"]} >= {"kept", "below_band"}
    assert all(len(question["question"]) < 430 for question in run.questions["1"])


def test_a_run_is_not_kept_above_20_kilobytes(
    made_up: SeededStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compact, "MOST_BYTES", 1000)
    directory = made_up.store().directory(made_up.arms["rzero"], 0)
    with pytest.raises(ValueError, match=r"would take \d+ bytes; a kept run takes at most 1000"):
        compact.keep(directory, tmp_path / "folder", config=made_up.config("rzero", 0))
    assert not (tmp_path / "folder").exists()


def test_a_second_opinion_is_added_to_a_run_that_is_kept(made_up: SeededStudy) -> None:
    directory, folder = made_up.store().directory(made_up.arms["rzero"], 2), made_up.folder("rzero", 2)
    opinion = {"accuracy": 0.5, "asked": 50, "labels": [[0, "1", "1", 5, True]] * 50}
    path = RunDirectory(directory).second_opinion
    path.write_text(json.dumps({"settings": {}, "iterations": {"1": opinion, "2": opinion}}))
    made_up.keep_opinions()
    assert made_up.kept("rzero")[2].label_accuracy == [0.5, 0.5]
    assert "labels" not in (folder / "second_opinion.json").read_text()
    for written_now in (path, folder / "second_opinion.json"):
        written_now.unlink()


def test_runs_go_on_with_what_they_were_begun_with_and_a_failure_keeps_no_other_back(
    made_up: SeededStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = replace(made_up, root=tmp_path / "store", work=tmp_path / "work")
    started: list[tuple[str, int, tuple[str, ...]]] = []

    def pretend(arm: Any, seed: int, store: Any) -> bool:
        started.append((arm.folder, seed, store.extra))
        if arm.folder == "untrained_challenger":
            raise RuntimeError("the power went out")
        target = store.directory(arm, seed)
        shutil.copytree(made_up.store().directory(arm, seed), target, dirs_exist_ok=True)
        return True

    monkeypatch.setattr(seeded, "finish", pretend)
    monkeypatch.setattr(command, "STUDY", replace(elsewhere, after=lambda directory, config: asked(0.3, 0.3)))
    begun = elsewhere.store().directory(elsewhere.arms["random_reward"], 0)
    begun.mkdir(parents=True)
    saved = elsewhere.config("random_reward", 0)
    saved.benchmarks.source.data_dir = "/first"
    OmegaConf.save(saved, begun / "config.yaml")
    chosen: Sequence[str] = ["--run", "--seeds", "0", "--data-dir", str(tmp_path), "--weights", "W", "--threads", "1"]
    assert command.main(chosen) == 2
    given = (f"benchmarks.source.data_dir={tmp_path}", "policy.path_or_id=W", "threads=1", "engine.threads=1")
    assert started == [
        ("rzero", 0, given),
        ("untrained_challenger", 0, given),
        ("random_reward", 0, ("benchmarks.source.data_dir=/first",)),
    ]
    said = capsys.readouterr()
    assert "the power went out" in said.err
    assert not elsewhere.lacks("rzero", 0)
    assert str(tmp_path) not in OmegaConf.to_yaml(compact.load(elsewhere.folder("rzero", 0), 0).config)
    assert command.main(["--seeds", "0", "--arms", "rzero"]) == 0
    assert command.main(["--seeds", "9"]) == 2
    (tmp_path / "file").touch()
    assert command.main(["--data-dir", str(tmp_path / "file")]) == 2
    assert command.main(["--threads", "0"]) == 2


@pytest.mark.parametrize(
    ("begun", "goes_on_with"),
    [
        ({}, ()),
        ({"threads": 7}, ("threads=7",)),
        ({"iterations": 9}, ("threads=1", "engine.threads=1")),
        (None, ("threads=1", "engine.threads=1")),
    ],
    ids=["as its recipe", "other threads", "another recipe", "not begun"],
)
def test_what_this_machine_is_said_to_have_counts_where_a_run_begins(
    made_up: SeededStudy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    begun: Json | None,
    goes_on_with: tuple[str, ...],
) -> None:
    """A run that was begun with the threads of its recipe was taken for one of another recipe, and removed."""
    elsewhere = seeded.on_machine(replace(made_up, work=tmp_path / "work"), data_dir=None, weights=None, threads=1)
    directory = elsewhere.store().directory(elsewhere.arms["rzero"], 0)
    if begun is not None:
        directory.mkdir(parents=True)
        config = elsewhere.config("rzero", 0)
        config.merge_with(begun)
        OmegaConf.save(config, directory / "config.yaml")
    asked_for: list[tuple[str, ...]] = []
    monkeypatch.setattr(seeded, "finish", lambda arm, seed, store: asked_for.append(store.extra))
    with pytest.raises(RuntimeError, match="is not finished"):
        elsewhere.execute("rzero", 0)
    assert asked_for == [goes_on_with]


def test_the_output_of_a_run_is_in_a_file_while_it_is_running(tmp_path: Path) -> None:
    log = runs.log_of(tmp_path / "work" / "seed1")
    assert log == tmp_path / "work" / "seed1.log"
    for attempt in (1, 2):
        with pytest.raises(RuntimeError, match=r"json\.tool .* ended with code \d") as failure:
            runs.command("json.tool", f"nowhere_{attempt}", log=log)
        assert f"nowhere_{attempt}'" in str(failure.value)
        assert f"nowhere_{attempt - 1}'" not in str(failure.value), "what an earlier attempt said is no reason"
    assert "nowhere_1'" in log.read_text()
    (tmp_path / "some.json").write_text("[1]")
    runs.command("json.tool", "--compact", str(tmp_path / "some.json"), log=log)
    assert log.read_text().endswith("\n[1]\n")


def test_runs_that_end_at_the_same_time_are_measured_one_after_the_other(
    made_up: SeededStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, under_way, most = tmp_path / "study" / "evaluated", [0], [0]

    def pretend(module: str, *arguments: str) -> None:
        under_way[0] += 1
        most[0] = max(most[0], under_way[0])
        time.sleep(0.1)  # long enough for another to come along
        (place / "scores").mkdir(parents=True, exist_ok=True)
        for number, policy in enumerate(arguments[0].removeprefix("policy=").split(",")):
            entry = {"policy": policy, "scores": {"overall": number, "table": {}}}
            (place / "scores" / f"{number}.json").write_text(json.dumps(entry))
        under_way[0] -= 1

    monkeypatch.setattr(seeded, "command", pretend)
    directory = made_up.store().directory(made_up.arms["rzero"], 0)
    with ThreadPoolExecutor(3) as pool:
        config = made_up.config("rzero", 0)
        found = list(pool.map(lambda _: seeded.ends(directory, config, place), range(3)))
    assert found[0] == found[1] == found[2]
    assert most == [1]


def test_the_verdict_on_rounding_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Means 4 and 2; variances 1 and 1 of three each: standard error sqrt(2/3)."""
    monkeypatch.setattr(rounded_rollouts, "end", lambda run: run)
    points, error = rounded_rollouts.difference([3.0, 4.0, 5.0], [1.0, 2.0, 3.0])  # type: ignore[list-item]
    assert (points, error) == (2.0, pytest.approx((2 / 3) ** 0.5))
