"""Paths and names that people have, through the real command: taken as they are, or refused in one line."""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from experiments import PROJECT, evaluate, run
from experiments.command_line import DONE, WRONG, expand_policy
from experiments.compose import compose
from experiments.paths import meant, places, spelled
from experiments.rundir import create_dated, runs_in

NAMES = (
    "o'brien",
    "a,b",
    "x=y",
    "a b",
    "#1",
    "{x}",
    "2025_12_01",
    "123",
    "null",
    'say "hi"',
    "epoch=9",
    "[x]",
    "back\\",
)
MICRO = PROJECT / "experiments" / "models" / "micro"


@dataclass(frozen=True)
class Started:
    """A run that would have begun."""

    cfg: DictConfig
    directory: Path


@dataclass(frozen=True)
class Said:
    code: int
    err: str
    started: list[Started]


Command = Callable[..., Said]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """`python -m experiments.run ARGUMENTS` in an empty directory, up to where the work begins."""
    monkeypatch.chdir(tmp_path)
    started: list[Started] = []

    def note(cfg: DictConfig, directory: Path, _: object) -> None:
        started.append(Started(cfg=cfg.copy(), directory=directory))

    monkeypatch.setattr(run, "run_locked", note)

    def give(*arguments: str) -> Said:
        started.clear()
        monkeypatch.setattr(sys, "argv", ["experiments/run.py", *arguments])
        code: object = 0
        try:
            run.command()
        except SystemExit as stop:
            code = stop.code
        return Said(code=int(str(code or 0)), err=capsys.readouterr().err, started=list(started))

    return give


def test_a_directory_and_a_policy_of_any_name_are_taken_as_they_are(tmp_path: Path) -> None:
    """H02: of a directory that is there, and of one that is not yet."""
    keys = ("directory", "resume", "benchmarks.folder", "policy.path_or_id")
    for name in NAMES:
        there = tmp_path / name
        there.mkdir()
        cfg = compose(
            *expand_policy([f"policy={there}"]), f"directory=new/{name}", f"resume={there}", f"benchmarks.folder={name}"
        )
        assert [OmegaConf.select(cfg, key) for key in keys] == [
            f"new/{name}",
            str(there),
            name,
            str(there),
        ] or name == "null"
        written = OmegaConf.create(OmegaConf.to_yaml(cfg))
        assert [OmegaConf.select(written, key) for key in keys] == [OmegaConf.select(cfg, key) for key in keys]


def test_a_run_in_a_place_of_any_name_begins_and_goes_on(command: Command) -> None:
    """H02."""
    name = """o'brien, x=y #1 {x} [z] "hi" 2025_12_01\\"""
    (Path("models") / name).mkdir(parents=True)
    said = command(f"policy=models/{name}", f"directory=runs/{name}")
    assert (said.code, said.err) == (DONE, "")
    [one] = said.started
    assert one.cfg.policy.path_or_id == f"models/{name}"
    assert one.directory == Path("runs", name)
    assert OmegaConf.load(one.directory / "config.yaml").policy.path_or_id == f"models/{name}"
    assert [found.directory for found in command(f"resume=runs/{name}").started] == [one.directory]


@pytest.mark.parametrize("name", ["2025_12_01", "null"])
def test_a_name_that_looks_like_a_number_is_a_name(name: str, command: Command) -> None:
    """H01."""
    said = command(f"name={name}")
    assert said.code == DONE
    [one] = said.started
    assert one.cfg.name == name
    assert one.directory.parent == Path("outputs", name)
    assert OmegaConf.load(one.directory / "config.yaml").name == name
    assert spelled(["name=123", "name=1e5", "name=true", "name="]) == [
        "name='123'",
        "name='1e5'",
        "name='true'",
        "name=''",
    ]


@pytest.mark.parametrize("name", ["o'brien", "a,b", "#1 {x}", ""])
def test_a_name_that_cannot_be_one_is_one_line_and_nothing_is_written(
    name: str, command: Command, tmp_path: Path
) -> None:
    said = command(f"name={name}")
    assert said.code == WRONG
    assert "cannot be a name" in said.err
    assert len(said.err.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_names_of_a_sweep_are_names_and_directories_of_their_own(command: Command, tmp_path: Path) -> None:
    """H01 in a multirun: the recipes are the same, the directories are not."""
    said = command("-m", "name=1_1,1_2,null", "hydra/launcher=basic")
    assert said.code == DONE, said.err
    assert [one.cfg.name for one in said.started] == ["1_1", "1_2", "null"]
    assert len({one.directory for one in said.started}) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["multirun"]


def test_home_is_found_however_it_is_written(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "my home"
    (home / "model").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("A_TOKEN", "not a path")
    for written in ("~", "${HOME}"):
        said = command(f"policy={written}/model", f"directory={written}/run of {written[0]}")
        assert said.code == DONE, said.err
        assert said.started[0].cfg.policy.path_or_id == str(home / "model")
        assert said.started[0].directory == home / f"run of {written[0]}"
    assert spelled(["directory=${A_TOKEN}/x"]) == ["directory='${A_TOKEN}/x'"]
    Path("${HOME}").mkdir()
    assert meant("${HOME}") == "${HOME}", "what is there wins over any other reading"
    assert command("policy=${HOME}").started[0].cfg.policy.path_or_id == "${HOME}"


def test_interpolations_and_what_is_quoted_for_hydra_still_mean_what_they_did(command: Command) -> None:
    said = command("directory=runs/${name}_${seed}", "seed=3", "policy.path_or_id='org/na me'")
    assert said.started[0].directory == Path("runs/micro_3")
    assert said.started[0].cfg.policy.path_or_id == "org/na me"
    assert spelled(['directory="a b"', "directory=null", "resume=", "seed=1", "-m", "~sweeps", "x=[a/b]"]) == [
        "directory='a b'", "directory=null", "resume=", "seed=1", "-m", "~sweeps", "x=[a/b]",
    ]  # fmt: skip


def test_an_existing_path_wins_and_otherwise_the_comma_separates(tmp_path: Path) -> None:
    for name in ("x,y", "z", "it's", "say 'a,b'"):
        (tmp_path / name).mkdir()
    there = str(tmp_path)
    assert places(f"{there}/x,y,{there}/z") == [f"{there}/x,y", f"{there}/z"]
    assert places(f"{there}/z,{there}/x,y") == [f"{there}/z", f"{there}/x,y"]
    assert places(f"{there}/it's,{there}/say 'a,b',micro") == [f"{there}/it's", f"{there}/say 'a,b'", "micro"]
    assert places("'a,b',c") == ["'a,b'", "c"]
    assert places("a,b") == ["a", "b"]
    assert places("") == [""]


def test_a_path_of_any_other_key_is_taken_as_it_is_where_it_is_there(command: Command) -> None:
    Path("data,1").mkdir()
    said = command("+challenger.reward.file=./data,1")
    assert said.started[0].cfg.challenger.reward.file == "./data,1"


def test_a_policy_in_several_values_needs_a_sweep_and_is_one_then(command: Command, tmp_path: Path) -> None:
    """H04: every job has a flat directory of its own, whatever the paths hold; H06: nothing lies beside multirun/."""
    long = "/".join(["a rather long name of a folder"] * 3)
    models = [f"{tmp_path}/models/{name}" for name in ("m1", "a,b", "[x]", f"{long}/m1", f"{long}/m2")]
    for model in models:
        Path(model).mkdir(parents=True)
    several = "policy=" + ",".join(models)
    refused = command(several)
    assert refused.code == WRONG
    assert "several values need -m" in refused.err
    said = command("-m", several, "hydra/launcher=basic")
    assert said.code == DONE, said.err
    assert [one.cfg.policy.path_or_id for one in said.started] == models
    [place] = (tmp_path / "multirun" / "overrides").iterdir()
    assert len({one.directory for one in said.started}) == len(models)
    for one in said.started:
        assert one.directory.parent.resolve() == place
        assert set(one.directory.name) <= set("abcdefghijklmnopqrstuvwxyz0123456789._-")
    assert {path.name for path in tmp_path.iterdir()} == {"models", "multirun"}
    mixed = command("-m", f"policy=micro,{models[0]}")
    assert (mixed.code, len(mixed.err.splitlines())) == (WRONG, 1)


def test_a_sweep_over_groups_has_directories_of_its_own(command: Command) -> None:
    """H04. grader is no part of the recipe, and far behind what a directory's name has room for."""
    long = "solver.settings.max_tokens_per_microbatch=1234567"
    said = command(
        "-m", "trainer.devices=1", "loss@solver.loss=dapo,paper", long, "grader=exact,default", "hydra/launcher=basic"
    )
    assert said.code == DONE, said.err
    assert len({one.directory for one in said.started}) == 4


def test_options_of_a_policy_stay_options_unless_a_model_of_that_name_lies_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("micro").mkdir()  # such as outputs/micro, the folder of its runs
    assert expand_policy(["policy=micro"]) == ["policy=micro"]
    assert expand_policy(["policy=micro,micro_small"], several=True) == ["policy=micro,micro_small"]
    Path("micro/config.json").write_text("{}")
    assert expand_policy(["policy=micro"]) == ["policy=hf", "policy.path_or_id='micro'"]


def test_two_runs_in_the_same_second_both_start(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """H05. Where the user said the directory, the second is refused."""
    monkeypatch.setattr(time, "strftime", lambda *_: "2026-01-02_03-04-05")
    directories = [command().started[0].directory, create_dated("micro", 0), create_dated("micro", 1)]
    assert [path.name.removeprefix("2026-01-02_03-04-05_") for path in directories] == ["seed0", "seed0_2", "seed1"]
    assert command("directory=mine").code == DONE
    refused = command("directory=mine")
    assert refused.code == WRONG
    assert "resume=mine" in refused.err
    (tmp_path / "other").mkdir()
    refused = command("directory=other")
    assert refused.code == WRONG
    assert "resume" not in refused.err, "there is no run to go on with"


@pytest.mark.parametrize(
    "arguments",
    [
        ["policy=/no/such/model"],
        ["policy=no/such/folder/here"],
        ["benchmarks=math", "benchmarks.source.data_dir=/no/such/data"],
        ["policy=FILE"],
        ["resume=FILE"],
        ["resume=/no/such/run"],
        ["directory=FILE/run"],
        ["directory=FILE"],
        ["sweeps=FILE"],
    ],
    ids=" ".join,
)
def test_a_wrong_path_leaves_nothing_behind_and_no_advice_that_cannot_work(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("no folder")
    given = [text.replace("FILE", str(tmp_path / "file")) for text in arguments]
    monkeypatch.setattr(sys, "argv", ["experiments/run.py", *given])
    with pytest.raises(SystemExit) as stop:
        run.command()
    assert stop.value.code == WRONG
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1, err
    assert "go on with" not in err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_advice_to_go_on_is_a_command_that_a_shell_reads_back() -> None:
    directory, own = Path("runs/o'brien, a=b #1 $HOME"), Path("my conf")
    words = shlex.split(run.resuming(directory, own))
    assert words == ["python", "-m", "experiments.run", "--config-dir", str(own), f"resume={directory}"]


def test_evaluate_takes_any_place_and_lists_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """H02: two checkpoints, one with a comma in its path, and a directory of results that needs quoting everywhere."""
    monkeypatch.chdir(tmp_path)
    first, second = tmp_path / "o'brien, x=y #1 {z}", tmp_path / "2025_12_01"
    for place in (first, second):
        place.symlink_to(MICRO)
    data = tmp_path / "it's data, mine"
    data.mkdir()
    (data / "amc23.jsonl").write_text('{"id": "1", "problem": "1 + 1?", "answer": "2"}\n')
    out = "results = [1], {2}"
    given = [f"policy={first},2025_12_01", "benchmarks=math", f"benchmarks.source.data_dir={data}", f"directory={out}"]
    given += ["benchmarks.tasks=[amc23]", "benchmarks.protocol.k=2", "benchmarks.protocol.max_tokens=8", "grader=exact"]
    assert evaluate.main([*given, "prompts=micro"]) == DONE, capsys.readouterr().err
    scored = [json.loads(path.read_text())["policy"] for path in (tmp_path / out / "scores").iterdir()]
    assert scored == [str(first)] or scored == ["2025_12_01"], "the weights are the same, so it is one file"
    assert {path.name for path in tmp_path.iterdir()} == {first.name, second.name, data.name, out}


def test_evaluate_says_what_is_wrong_with_the_last_path_before_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert evaluate.main([f"policy={MICRO},/no/such/place"]) == WRONG
    err = capsys.readouterr().err
    assert "/no/such/place does not exist" in err
    assert len(err.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_own_options_in_a_folder_of_any_name(tmp_path: Path) -> None:
    own = tmp_path / "o'brien, my=conf {x}" / "conf"
    (own / "policy").mkdir(parents=True)
    (own / "policy" / "tiny.yaml").write_text("defaults: [micro]\n")
    assert compose("policy=tiny", config_dir=own).policy == compose().policy


def test_runs_are_found_in_a_folder_of_runs(tmp_path: Path) -> None:
    for name in ("b/run 2", "b/run 1", "a", "b/run 1/iteration_1/within"):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
        for file in ("config.yaml", "state.json"):
            (tmp_path / name / file).write_text("{}")
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "config.yaml").write_text("no run: it has no ledger")
    assert runs_in([tmp_path]) == [tmp_path / "a", tmp_path / "b/run 1", tmp_path / "b/run 2"]
    assert runs_in([tmp_path / "a", tmp_path / "b"]) == runs_in([tmp_path])
    (tmp_path / "empty").mkdir()
    for wrong, words in (
        ("empty", "there is no run in it"),
        ("nowhere", "does not exist"),
        ("a/state.json", "is a file"),
    ):
        with pytest.raises(FileNotFoundError, match=words):
            runs_in([tmp_path / wrong])
