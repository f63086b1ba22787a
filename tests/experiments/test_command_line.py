"""What all commands share: the list of them, messages, and a user's own folder of options."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from omegaconf import OmegaConf

from experiments import PROJECT, dry_run, evaluate, plan, report
from experiments.__main__ import commands, main
from experiments.browsing.pages import create_app
from experiments.command_line import (
    DEBUG,
    DONE,
    STOPPED,
    WRONG,
    exit_code,
    expand_policy,
    told,
    without_config_dir,
)
from experiments.compose import compose, options
from experiments.report import write_report
from experiments.reproduce.arms import MICRO, RZERO, arm_of
from experiments.run import command
from experiments.runs import Store
from tests.experiments.small import SHRUNK

REWARD = """
from rzero.types import RewardBreakdown


class Peak:
    def __init__(self, *, at):
        self.at = at

    def __call__(self, questions, votes):
        return [
            RewardBreakdown(total=0.0 if vote is None else 1 - abs(vote.agreement - self.at), parts={"format": 1.0})
            for vote in votes
        ]
"""
PEAK = "challenger_reward@challenger.reward=peak"


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of options with the module that one of them names beside it, away from where the command is given."""
    mine = tmp_path / "mine"
    (mine / "conf" / "challenger_reward").mkdir(parents=True)
    (mine / "conf" / "policy").mkdir()
    (mine / "rewards_of_mine.py").write_text(REWARD)
    (mine / "conf" / "challenger_reward" / "peak.yaml").write_text("_target_: rewards_of_mine.Peak\nat: 0.6\n")
    (mine / "conf" / "policy" / "tiny.yaml").write_text("defaults: [micro]\n")
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield mine / "conf"
    sys.modules.pop("rewards_of_mine", None)


def test_the_front_door_lists_every_command_with_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == DONE
    out = capsys.readouterr().out
    listed = dict(commands())
    modules = {path.stem for path in (PROJECT / "experiments").glob("*.py") if "__main__" in path.read_text()}
    packages = {path.parent.name for path in (PROJECT / "experiments").glob("*/__main__.py")}
    assert listed.keys() == (modules - {"__main__"}) | packages
    for name, line in listed.items():
        assert f"  {name}" in out
        assert line.endswith("."), name
        assert line in out
    assert main(["run"]) == WRONG
    assert "python -m experiments.run --help" in capsys.readouterr().err


def test_listing_imports_nothing_heavy() -> None:
    code = "import sys, experiments.__main__ as m; m.main([]); print({'torch', 'hydra', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"


def test_what_is_wrong_is_one_message_and_a_code(capsys: pytest.CaptureFixture[str]) -> None:
    def stopped() -> int:
        raise KeyboardInterrupt

    def wrong() -> int:
        raise ValueError("top_p must be at most 1, got [bold]2[/bold]")

    assert exit_code(lambda: 7) == 7
    assert exit_code(stopped) == STOPPED
    assert exit_code(wrong) == WRONG
    assert capsys.readouterr().err.splitlines() == [
        "error: stopped by the user; nothing was written, and the same command starts again",
        "error: top_p must be at most 1, got [bold]2[/bold]",
    ]


def test_no_traceback_reaches_a_user_who_did_not_ask_for_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A fault of ours is a message too. --debug holds for the processes that a command starts as well."""
    monkeypatch.setenv(DEBUG, "")
    assert exit_code(lambda: 1 // 0) == WRONG
    assert capsys.readouterr().err.splitlines() == [
        "error: ZeroDivisionError: integer division or modulo by zero (a fault of this program; --debug shows where)"
    ]
    assert report.main(["/no/such/run"]) == WRONG
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert report.main(["/no/such/run", "--debug"]) == WRONG
    err = capsys.readouterr().err
    assert err.startswith("Traceback")
    assert err.splitlines()[-1].startswith("error: /no/such/run does not exist")
    assert os.environ[DEBUG]
    monkeypatch.setenv(DEBUG, "")
    assert without_config_dir(["--debug", "seed=1"]) == (None, ["seed=1"])
    assert os.environ[DEBUG]


def test_a_folder_of_options_is_taken_by_every_command_that_composes(own: Path) -> None:
    assert without_config_dir(["-m", f"--config-dir={own}", "seed=1"]) == (own, ["-m", "seed=1"])
    assert without_config_dir(["--config-dir", str(own), "seed=1"]) == (own, ["seed=1"])
    assert without_config_dir(["seed=1"]) == (None, ["seed=1"])
    assert compose(PEAK, config_dir=own).challenger.reward.at == 0.6
    assert "tiny" in options("policy", config_dir=own) - options("policy")
    assert expand_policy(["policy=tiny"], config_dir=own) == ["policy=tiny"]
    assert plan.plan([PEAK, "policy=tiny"], config_dir=own)["fits"]
    [(name, cfg)] = evaluate.configurations(["policy=tiny"], config_dir=own)
    assert (name, cfg.policy) == ("tiny", compose().policy)
    store = Store(root=own, work=own, extra=(PEAK,), config_dir=own)
    assert store.config(arm_of(MICRO, RZERO), 3).challenger.reward.at == 0.6


def test_a_folder_that_is_not_there_and_a_module_that_is_not_there_are_one_line(own: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"--config-dir .*nowhere: there is no such folder"):
        compose(config_dir=tmp_path / "nowhere")
    (own.parent / "rewards_of_mine.py").unlink()
    with pytest.raises(ValueError, match="cannot be imported") as caught:
        dry_run.dry_run([PEAK, "policy=qwen3_4b_base", "prompts=default"], tmp_path / "run", config_dir=own)
    assert "rewards_of_mine" in told(caught.value)
    assert "--config-dir" in told(caught.value)
    assert "\n" not in told(caught.value)


@pytest.mark.slow
def test_a_run_with_parts_of_ones_own_is_resumed_reported_and_browsed(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Through the real command; it is stopped once, and reports and pages need none of the user's modules."""
    from rzero.selfplay import SelfPlay

    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["experiments/run.py", *arguments])
        try:
            command()
        except SystemExit as stop:
            return int(stop.code or 0)
        return 0

    directory = tmp_path / "run"
    small = [text for text in SHRUNK if not text.startswith("iterations")]
    with monkeypatch.context() as patch:
        patch.setattr(SelfPlay, "fit_solver", lambda *_: (_ for _ in ()).throw(OSError("the disk is full")))
        assert run("--config-dir", str(own), PEAK, *small, "iterations=1", f"directory={directory}") == WRONG
    said = capsys.readouterr().err
    assert "the disk is full" in said
    assert f"experiments.run --config-dir {own} resume={directory}" in said
    assert run("--config-dir", str(own), f"resume={directory}") == 0
    assert OmegaConf.load(directory / "config.yaml").challenger.reward._target_ == "rewards_of_mine.Peak"
    sys.modules.pop("rewards_of_mine")
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if folder != str(own.parent)])
    assert write_report([directory], output=tmp_path / "report").is_file()
    page = TestClient(create_app([directory]), base_url="http://127.0.0.1").get("/runs/0")
    assert page.status_code == 200
    assert "1 of 1 iterations" in page.text
