"""The check command: the table of a load, the prompts of both roles, exit codes; and the day that a run began."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from experiments import PROJECT, check
from experiments.command_line import DONE, UNMET, WRONG
from experiments.provenance import start_day, write_manifest
from tests.experiments.small import config

MICRO = PROJECT / "experiments" / "models" / "micro"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(MICRO, tmp_path / "copy"))


def test_the_micro_model_has_nothing_to_say_and_its_prompts_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert check.main([]) == DONE
    shown = capsys.readouterr().out
    assert "note" not in shown
    assert "| <|system|>Think, then give \\boxed{}.<|end|><|user|>{question}<|end|><|assistant|>|" in shown


@pytest.mark.filterwarnings("ignore:.*generation flags")
def test_what_a_stranger_brings_is_in_the_table_and_cannot_reach_the_terminal(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = copy / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "temperature": 0.6, "top_p": 0.9}))
    (copy / "chat_template.jinja").write_text("\x1b[2J{{ messages[-1].content }}\n{{ strftime_now('%Y') }} <think>")
    assert check.main([f"policy={copy}", "prompts=micro"]) == DONE
    shown = capsys.readouterr().out
    for said in ("could not be saved again", "knows no system role", f"it is {datetime.now(UTC).date()}", "<think>"):
        assert said in shown
    assert "\x1b" not in shown
    assert "| \\x1b[2JThink, then give \\boxed{}.|\n| |\n| {question}|" in shown


def test_a_policy_that_is_refused_has_its_own_exit_code(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (copy / "chat_template.jinja").write_text("hello")
    assert check.main([f"policy={copy}"]) == UNMET
    assert "shows the user text 0 times" in capsys.readouterr().out
    assert check.main(["policy=./nowhere"]) == WRONG
    assert "does not exist" in capsys.readouterr().err


def test_a_run_keeps_the_day_on_which_it_began(tmp_path: Path) -> None:
    cfg = config()
    assert start_day(tmp_path) == datetime.now(UTC).date(), "it begins today"
    write_manifest(tmp_path, cfg, finished=False)
    path = tmp_path / "run.json"
    begun = json.loads(path.read_bytes())
    assert begun["date"] == datetime.now(UTC).date().isoformat()
    path.write_text(json.dumps({**begun, "date": "2026-01-31"}))
    write_manifest(tmp_path, cfg, finished=False)
    write_manifest(tmp_path, cfg, finished=True)
    assert start_day(tmp_path) == date(2026, 1, 31)
    del begun["date"]
    path.write_text(json.dumps({**begun, "attempts": [{"started_unix_s": 86400.0 * 40}]}))
    assert start_day(tmp_path) == date(1970, 2, 10), "earlier versions wrote down times only"
    path.write_text("{")
    with pytest.raises(ValueError, match="does not say when the run began"):
        start_day(tmp_path)
