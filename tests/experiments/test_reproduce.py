"""The paper's studies on invented runs: verdicts, files, states; and one of them run for real, shrunk and stopped."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from evaluation.seeds import over_seeds
from experiments import runs
from experiments.reproduce import __main__ as overview
from experiments.reproduce.arms import LABELLED_AFTER, MICRO, PAPER, RZERO, UNTRAINED, arm_of
from experiments.reproduce.command import Options, command_line, main, read_options, reproduce, state, studies
from experiments.reproduce.study import Claim, Study
from experiments.run import command
from experiments.runs import Arm, Store
from rzero.selfplay import SelfPlay
from tests.experiments.runs import make_scores
from tests.experiments.small import SHRUNK

BY_NAME = {study.name: study for study in studies()}


def invent(store: Store, arm: Arm, seed: int, *, last: float, rounds: int) -> None:
    """A kept run whose accuracy goes in equal steps from 0.35 to `last`."""
    folder = store.folder(arm, seed)
    folder.mkdir(parents=True)
    OmegaConf.save(store.config(arm, seed), folder / "config.yaml")
    scores = [make_scores(accuracy=0.35 + (last - 0.35) * i / rounds, seed=seed) for i in range(rounds + 1)]
    audits = [
        {"audit/level": 2.0 + i, "audit/level_kept": 2.5 + i, "curriculum/agreement": 0.5}
        | {"audit/label_accuracy": 0.8 - 0.1 * i, "audit/label_accuracy_kept": 0.9 - 0.1 * i}
        for i in range(rounds + 1)
    ]
    cells = [
        [{"agreement": 0.5, "accuracy": 0.9 - 0.1 * i + 0.05 * j} for j in range(rounds + 1)] for i in range(rounds)
    ]
    (folder / "analyses.json").write_text(json.dumps({"matrix": cells}))
    record = {"rounds": audits, "scores": [score.to_json() for score in scores]}
    (folder / "result.json").write_text(json.dumps(record))
    attempt = {"started_unix_s": 0.0, "finished_unix_s": 60.0, "peak_rss_gib": 1.0, "commit": "c0ffee"}
    (folder / "run.json").write_text(json.dumps({"attempts": [attempt], "versions": {}, "machine": "Linux"}))


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> Options:
    """Every run that the main table needs, invented: R-Zero reaches 0.6, an untrained Challenger 0.4."""
    options = Options(seeds=(0, 1, 2), output=tmp_path_factory.mktemp("results"))
    for seed in options.seeds:
        invent(options.store(), arm_of(MICRO, RZERO), seed, last=0.6, rounds=3)
        invent(options.store(), arm_of(MICRO, UNTRAINED), seed, last=0.4, rounds=3)
    return options


@pytest.mark.parametrize("name", ["main_table", "general_table", "difficulty_table"])
def test_a_study_is_tabulated_from_runs_that_others_have_made(name: str, options: Options) -> None:
    """None of these runs anything: what the main table needs is all they need."""
    study = BY_NAME[name]
    assert state(study, options) == "runs finished, no table"
    folder = reproduce(study, options, overview.Console(quiet=True))
    assert state(study, options) == "done"
    assert {path.name for path in folder.iterdir()} == {"table.md", "figures.json", "figure.png", "manifest.json"}
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["command"] == command_line(study, options)
    assert manifest["seeds"] == [0, 1, 2]
    assert {commit for run in manifest["runs"] for commit in run["commits"]} == {"c0ffee"}
    claims = json.loads((folder / "figures.json").read_text())["claims"]
    assert [claim["claim"] for claim in claims] == [claim.text for claim in study.claims]
    gained = claims[0]
    assert gained["verdict"] == "holds"
    assert gained["mean"] > 0
    text = (folder / "table.md").read_text()
    assert all(claim.text in text for claim in study.claims)


def test_a_table_of_other_runs_is_out_of_date_and_a_missing_run_is_counted(options: Options) -> None:
    study, store = BY_NAME["main_table"], options.store()
    reproduce(study, options, overview.Console(quiet=True))
    result = store.folder(arm_of(MICRO, UNTRAINED), 2) / "result.json"
    kept = result.read_text()
    result.write_text(kept + " ")
    assert state(study, options) == "table out of date"
    result.unlink()
    assert state(study, options) == "5 of 6 runs"
    result.write_text(kept)
    assert state(study, options) == "done"
    assert state(BY_NAME["scaling_figure"], options) == "not run"
    paper = read_options(["scale=paper", f"output={options.output}"])
    assert state(BY_NAME["labelled_training"], paper).startswith("not possible: ")


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ((1.0, 1.1, 0.9), "holds"),
        ((-1.0, -1.1, -0.9), "does not hold"),
        ((1.0, -1.0, 0.5), "undecided"),
        ((9.0,), "undecided"),
    ],
)
def test_a_verdict_is_the_intervals_side_of_zero(values: tuple[float, ...], verdict: str) -> None:
    claim = Claim(text="", paper="", measure=lambda _: values)
    assert claim.judge({}) == (verdict, over_seeds(values))


def test_every_study_composes_at_every_scale_that_it_offers() -> None:
    """With one of the paper's models: all four experiments compose in test_choices."""
    store, models = Store(root=Path("nowhere"), work=Path("nowhere")), (MICRO, PAPER[0])
    offered = [arm for study in studies() for scale in study.models for arm in study.arms(scale)]
    arms = {arm.folder: arm for model, _, arm in offered if model in models}
    for arm in arms.values():
        assert store.config(arm, 0).seed == 0
    assert {"micro", "micro_untrained_challenger", "paper_qwen3_4b", "paper_qwen3_4b_ten_rounds"} <= arms.keys()
    for study in studies():
        assert study.models.keys() | study.missing.keys() == {"micro", "paper"}, study.name


def test_missing_runs_are_named_and_the_other_studies_are_written(
    options: Options, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "execute", lambda *_: pytest.fail("a run was started"))
    assert overview.main(["all", "seeds=0,1,2", f"output={options.output}"]) == 1
    written = capsys.readouterr()
    assert "ablation_table: 6 runs are missing; --run starts what is missing" in written.err
    assert "micro_no_filtering, seed 2: there is no result.json in" in written.err
    assert f"written: {options.output}/main_table/micro" in written.out


def test_the_list_composes_each_arm_and_reads_each_kept_run_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Studies share arms, and both are slow."""
    read: list[Path] = []
    composed: list[tuple[str, ...]] = []
    same_recipe, compose = runs.same_recipe, runs.compose

    def reading(saved: Path, now: DictConfig) -> bool:
        read.append(saved)
        return same_recipe(saved, now)

    def composing(*overrides: str, **more: Any) -> DictConfig:
        composed.append(overrides)
        return compose(*overrides, **more)

    runs._composed.cache_clear()
    monkeypatch.setattr(runs, "same_recipe", reading)
    monkeypatch.setattr(runs, "compose", composing)
    assert overview.main(["--list"]) == 0
    kept = {(arm, seed) for study in studies() for _, _, arm in study.arms("micro") for seed in (0, 1, 2)}
    assert 20 < len(read) <= len(kept)
    assert len(composed) == len(set(composed)) > 5


def test_the_list_shows_claims_commands_and_states(capsys: pytest.CaptureFixture[str]) -> None:
    assert overview.main(["--list", "scale=paper"]) == 0
    out = capsys.readouterr().out
    for study in studies():
        assert f"{study.name}: {study.title}" in out
        if not study.missing.get("paper"):
            assert command_line(study, read_options(["scale=paper"])) + " --run" in out
        assert all(claim.text in out for claim in study.claims)
    assert "not run" in out


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["scale=huge"], "scale must be one of micro, paper, got 'huge'"),
        (["seeds=a"], "seeds must be whole numbers"),
        (["iterations=1"], "add output=DIR"),
    ],
)
def test_wrong_settings_are_named(settings: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(BY_NAME["main_table"], settings) == 2
    assert words in capsys.readouterr().err


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Runs are started in this process, which has paid for the imports; the list of their commands."""
    started: list[str] = []

    def carry_out(arguments: list[str], **_: Any) -> tuple[int, str]:
        started.append(" ".join(arguments[3:]))
        monkeypatch.setattr(sys, "argv", ["experiments/run.py", *arguments[3:]])
        try:
            command()
        except SystemExit as stop:
            return int(stop.code or 0), ""
        return 0, ""

    monkeypatch.setattr(runs, "carry_out", carry_out)
    return started


@pytest.mark.slow
def test_labelled_training_runs_after_r_zero_and_goes_on_where_it_was_stopped(
    in_process: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three arms, one of which starts from another's Solver, through the real command."""
    study: Study = BY_NAME["labelled_training"]
    small = [text for text in SHRUNK if not text.startswith("iterations")]
    wanted = ["seeds=10", f"output={tmp_path}", "iterations=1", *small]
    settings = [*wanted, "--run"]
    assert main(study, wanted) == 1
    assert "micro_labelled_after, seed 10: there is no result.json" in capsys.readouterr().err
    assert in_process == [], "nothing is started without --run"
    with monkeypatch.context() as patch:
        patch.setattr(SelfPlay, "fit_solver", lambda *_: (_ for _ in ()).throw(OSError("the disk is full")))
        assert main(study, settings) == 2
    assert len(in_process) == 2, "the two arms that need no other"
    assert main(study, settings) == 0
    store = read_options(wanted).store()
    directory = store.directory(arm_of(MICRO, RZERO), 10)
    assert in_process[2:] == [
        f"resume={directory}",
        f"resume={store.directory(arm_of(MICRO, study.treatments[1]), 10)}",
        " ".join(
            [
                *store.overrides(arm_of(MICRO, LABELLED_AFTER), 10),
                f"directory={store.directory(arm_of(MICRO, LABELLED_AFTER), 10)}",
            ]
        ),
    ]
    after = store.load(arm_of(MICRO, LABELLED_AFTER), 10)
    assert after.scores[0].table() == store.load(arm_of(MICRO, RZERO), 10).scores[-1].table()
    assert after.iterations[1]["audit/label_accuracy_kept"] == 1.0
    in_process.clear()
    assert main(study, settings) == 0
    assert in_process == [], "everything was there"
    assert "written: " in capsys.readouterr().out
