"""The conformance command, and agreement with the recorded rows where they are on this machine."""

import functools
import inspect
import json
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from experiments.conformance.__main__ import MODULES, checker, main, read_rows
from experiments.conformance.presets import CONF
from experiments.conformance.rows import Report, RowResult, differences, tracked

GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "golden"


def golden(kind: str) -> Path:
    path = GOLDEN / f"{kind}.public.jsonl"
    if not path.exists():
        pytest.skip(f"{path} is not on this machine")
    return path


def test_report_counts_and_verdict() -> None:
    report = Report([RowResult("a", True), RowResult("b", False, allowed="D5", why="x"), RowResult("c", False)])
    assert not report.passed
    assert report.summary == "3 rows: 1 agree, 1 differ for a documented reason, 1 differ"
    plain = report.as_json()
    assert (plain["rows"], plain["agree"]) == (3, 1)
    assert plain["allowed"] == [{"id": "b", "reason": "D5", "why": "x"}]
    assert plain["differ"] == [{"id": "c", "reason": None, "why": ""}]
    assert Report([RowResult("a", True), RowResult("b", False, allowed="D5")]).passed
    assert not Report([]).passed


def test_helpers() -> None:
    assert differences([("x", 1, 1), ("y", 1, 2)]) == "y: 1 != 2"
    assert list(tracked([1, 2], title="t")) == [1, 2]


def test_rows_are_lines_ended_by_newlines_only(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"id": "a\u2028b"}\n\n{"id": 1}\n', encoding="utf-8")
    assert read_rows(file) == [{"id": "a\u2028b"}, {"id": 1}]


@pytest.mark.parametrize(
    ("content", "message"),
    [("", "holds no rows"), ("{", "line 1 is not JSON"), ("[1]", "line 1 holds a list"), (None, "No such file")],
)
def test_an_unreadable_file_ends_with_status_2(
    content: str | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "rows.jsonl"
    if content is not None:
        file.write_text(content)
    assert main(["repetition", str(file)]) == 2
    assert message in capsys.readouterr().err


def test_a_missing_module_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODULES, "votes", "nowhere")
    with pytest.raises(ImportError, match=r"there is no module experiments\.conformance\.nowhere"):
        checker("votes")


def test_a_row_that_differs_ends_with_status_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = {
        "id": "r\x1b[2J",
        "questions": ["a b", "c d"],
        "distance_threshold": 0.5,
        "shares": [1.0, 1.0],
        "error": None,
    }
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(row))
    assert main(["repetition", str(file), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["differ"][0]["why"].startswith("share of question 0: 0.5 != 1.0")
    assert main(["repetition", str(file)]) == 1
    assert "\x1b" not in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["votes", "repetition", "challenger_reward", "solver_reward", "curation"])
@pytest.mark.slow
def test_golden_rows(kind: str) -> None:
    path = golden(kind)
    report = checker(kind)(read_rows(path), path)
    assert report.passed, report.summary + str([result for result in report.results if result.wrong])
    documented = [result.allowed for result in report.results if not result.agree]
    assert all(reason is not None and reason[0] == "D" for reason in documented)
    assert len(documented) <= 0.1 * len(report.results)


CHOICES = sorted(
    f"{group}/{path.stem}"
    for group in ("vote", "challenger_reward", "solver_reward", "curriculum")
    for path in (CONF / group).glob("*.yaml")
    if not path.stem.startswith("_")
)


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_composes_and_builds(choice: str) -> None:
    group, option = choice.split("/", maxsplit=1)
    with initialize_config_dir(str(CONF), version_base=None):
        # a curriculum overrides the slots of its own defaults list; the others need the slot `repetition` beside them
        alone = compose(choice) if group == "curriculum" else None
        cfg = (alone or compose(overrides=[f"+{group}={option}", "+repetition=paper"]))[group]
    node = cfg.rule if group == "curriculum" else cfg
    needs = {"grader": object(), "bank": object(), "embedder": object(), "seed": 0}
    built = instantiate(node, _convert_="all")
    if isinstance(built, functools.partial):
        names = inspect.signature(built.func).parameters
        built = built(**{name: thing for name, thing in needs.items() if name in names and name not in built.keywords})
    assert callable(getattr(built, "select", None) or built)
    if group == "curriculum":
        assert {"votes", "vote", "sampling_questions", "sampling_answers"} <= set(cfg)
