"""Mirrors of the metrics: what they hold after a run that was stopped and resumed, and what they never hold."""

from __future__ import annotations

import csv
import inspect
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rzero.interfaces import Tracker
from rzero.runs.bank import JsonlBank
from rzero.runs.directory import RunDirectory
from rzero.tracking import CsvTracker, Fanout, JsonlTracker, NullTracker, TensorBoardTracker, WandbTracker
from rzero.tracking.wandb_files import records
from rzero.tracking.weights_and_biases import COLUMNS, KEY, Identity, table_row
from rzero.types import Artifact, Json, LabelledQuestion, Vote

TRACKERS = (CsvTracker, Fanout, JsonlTracker, NullTracker, TensorBoardTracker, WandbTracker)
EVIL = '=HYPERLINK("http://evil.example")\x1b[31m\u202e\ud800'


NOT_FINITE = (math.nan, math.inf, -math.inf)


def labelled(text: str = EVIL) -> list[LabelledQuestion]:
    vote = Vote(label=text, count=2, divisor=3, counts=((text, 2), ("7", 1)), answers=(text, None, "7"))
    asked = LabelledQuestion(iteration=1, index=0, question=text, challenger_answer=text, vote=vote, drop_reason=None)
    dropped = LabelledQuestion(
        iteration=1, index=1, question="", challenger_answer=None, vote=None, drop_reason="no_question"
    )
    return [asked, dropped]


@pytest.mark.parametrize("kind", TRACKERS)
def test_a_tracker_is_what_the_protocol_says(kind: type[Tracker]) -> None:
    assert issubclass(kind, Tracker)
    for method in ("log", "questions", "artifact", "close"):
        given, promised = (inspect.signature(getattr(owner, method)).parameters for owner in (kind, Tracker))
        assert {name: each.kind for name, each in given.items()} == {name: each.kind for name, each in promised.items()}


# ----------------------------------------------------------------------------------------------------------------- CSV


def read_csv(path: Path) -> list[list[str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.reader(file, strict=True))


def test_csv_forgets_what_is_repeated(tmp_path: Path) -> None:
    first = CsvTracker(path=tmp_path / "metrics.csv")
    for step in (1, 2, 3):
        first.log({"iteration": 1.0, "solver/reward": step / 4}, step=step)
    first.close()
    with open(first.path, "a", encoding="utf-8") as file:
        file.write("4,1,solver/rew")  # the power went out
    second = CsvTracker(path=first.path, committed_step=1)
    for step in (2, 3):
        second.log({"iteration": 1.0, "solver/reward": step / 8}, step=step)
    second.close()
    rows = [
        ["1", "1", "solver/reward", "0.25"],
        ["2", "1", "solver/reward", "0.25"],
        ["3", "1", "solver/reward", "0.375"],
    ]
    assert read_csv(first.path) == [["step", "iteration", "metric", "value"], *rows]


def test_csv_holds_numbers_and_no_formulas(tmp_path: Path) -> None:
    tracker = CsvTracker(path=tmp_path / "metrics.csv")
    tracker.log({"=1+1": -0.5, "kl": float("nan")}, step=1)
    tracker.close()
    again = CsvTracker(path=tracker.path, committed_step=1)
    again.close()
    assert read_csv(tracker.path)[1:] == [["1", "", "'=1+1", "-0.5"], ["1", "", "kl", ""]]


def test_csv_leaves_another_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("name,wage\nAda,1\n")
    with pytest.raises(ValueError, match="no metrics file of a run"):
        CsvTracker(path=path)
    assert path.read_text() == "name,wage\nAda,1\n"


# --------------------------------------------------------------------------------------------------------- TensorBoard


def test_tensorboard_forgets_what_is_repeated(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for committed, value in ((0, 0.25), (2, 0.75)):
        tracker = TensorBoardTracker(directory=tmp_path, committed_step=committed)
        for step in range(committed + 1, 5):
            tracker.log({"solver/reward": value}, step=step)
        tracker.close()
    reader = EventAccumulator(str(tmp_path))
    reader.Reload()
    events = reader.Scalars("solver/reward")
    assert [(event.step, event.value) for event in events] == [(1, 0.25), (2, 0.25), (3, 0.75), (4, 0.75)]


def test_a_gap_is_no_number_at_tensorboard(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tracker = TensorBoardTracker(directory=tmp_path)
    for step, value in enumerate(NOT_FINITE, start=1):
        tracker.log({"solver/kl": value, "solver/reward": step / 4}, step=step)
    tracker.close()
    reader = EventAccumulator(str(tmp_path))
    reader.Reload()
    assert reader.Tags()["scalars"] == ["solver/reward"]
    assert [event.value for event in reader.Scalars("solver/reward")] == [0.25, 0.5, 0.75]


def test_tensorboard_names_the_package_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match="pip install tensorboard"):
        TensorBoardTracker(directory=tmp_path)


# ----------------------------------------------------------------------------------------------------------------- W&B


def attempt(directory: Path, *, steps: range) -> None:
    """One attempt of a run: metrics, the questions of iteration 1 at step 2, a Solver."""
    tracker = WandbTracker(
        project="rzero-test",
        mode="auto",
        directory=str(directory),
        name="micro_seed0",
        group="band_now",
        artifacts=["questions", "solver"],
        config={"seed": 0, "home": "${oc.env:HOME}"},
    )
    for step in steps:
        kl = NOT_FINITE[step % len(NOT_FINITE)]
        tracker.log({"iteration": 1.0, "solver/reward": step / 4, "solver/kl": kl}, step=step)
        if step == 2:
            tracker.questions(labelled(), step=step)
            posed = RunDirectory(directory).questions(1)
            tracker.artifact(Artifact(kind="questions", iteration=1, path=posed, made_of=("base",)))
    tracker.artifact(Artifact(kind="solver", iteration=1, path=directory / "solver", made_of=("questions_1", "base")))
    tracker.artifact(Artifact(kind="challenger", iteration=1, path=directory / "nowhere", made_of=("base",)))
    tracker.close()


def written(directory: Path) -> list[list[Json]]:
    """The records of every offline file of a run, in the order in which they were begun."""
    files = sorted(directory.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime_ns)
    return [records(path) for path in files]


def history(file: list[Json]) -> dict[int, Json]:
    """Step -> what stands there."""
    rows = [record["history"] for record in file if record["type"] == "history"]
    steps = [row["step"]["num"] for row in rows]
    assert steps == sorted(set(steps))
    return dict(zip(steps, (row["item"] for row in rows), strict=True))


def resumes(file: list[Json]) -> bool:
    """Whether a file goes on with a run at W&B; one that does not begins it anew."""
    [run] = [record["run"] for record in file if record["type"] == "run"]
    return bool(run.get("resume", False))


@pytest.mark.slow
def test_wandb_offline_is_one_run_without_repeated_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY, raising=False)
    monkeypatch.setenv("WANDB_SILENT", "true")
    JsonlBank(RunDirectory(tmp_path)).put(1, labelled())
    (tmp_path / "solver").mkdir()
    (tmp_path / "solver" / "config.json").write_text("{}")
    attempt(tmp_path, steps=range(1, 4))
    attempt(tmp_path, steps=range(2, 6))  # resumed from step 1
    first, second = written(tmp_path)
    assert [(list(history(file)), resumes(file)) for file in (first, second)] == [([1, 2, 3], False), ([4, 5], True)]
    both = first + second
    runs = [record["run"] for record in both if record["type"] == "run"]
    assert {run["run_id"] for run in runs} == {json.loads((tmp_path / "wandb_run.json").read_text())["id"]}
    assert {(run["display_name"], run["run_group"]) for run in runs} == {("micro_seed0", "band_now")}
    rows = history(first) | history(second)
    assert [row["solver/reward"] for row in rows.values()] == [n / 4 for n in (1, 2, 3, 4, 5)]
    assert not any("solver/kl" in row for row in rows.values()), "what is not finite is a gap"
    axes = {r["metric"]["glob_name"]: r["metric"]["step_metric"] for r in both if "glob_name" in r.get("metric", {})}
    assert axes == dict.fromkeys(("evaluation/*", "curriculum/*", "audit/*"), "iteration")

    made = [record["artifact"] for record in both if record["type"] == "artifact"]
    kept = {(item["type"], item["digest"]): json.loads(item.get("metadata") or "{}") for item in made}
    lineage = {data["role"]: data["made_of"] for data in kept.values() if "role" in data}
    assert lineage == {"questions": ["base"], "solver": ["questions_1", "base"]}  # the Challenger was not chosen

    [table] = tmp_path.glob("wandb/offline-run-*/files/media/table/*.table.json")
    data = json.loads(table.read_text(encoding="utf-8"))
    assert data["columns"] == list(COLUMNS)
    row = dict(zip(COLUMNS, data["data"][0], strict=True))
    assert row["question"] == '\'=HYPERLINK("http://evil.example")\\x1b[31m\\u202e\ufffd'
    assert row["agreement"] == pytest.approx(2 / 3)
    assert row["answers"].endswith(" | (none) | 7")
    assert dict(zip(COLUMNS, data["data"][1], strict=True))["outcome"] == "no_question"


KILLED = """
import os, signal, sys
from pathlib import Path
from rzero.tracking import JsonlTracker, WandbTracker

directory = Path(sys.argv[1])
record = JsonlTracker(directory / "metrics.jsonl")
mirror = WandbTracker(project="rzero-test", mode="offline", directory=str(directory))
for step in range(1, 7):
    for tracker in (record, mirror):
        tracker.log({"iteration": 1.0, ("curriculum/candidates" if step == 2 else "solver/reward"): step}, step=step)
os.killpg(os.getpgrp(), signal.SIGKILL)
"""
HEADER = 7
"""Bytes of an offline file that nothing was written to yet: what a run leaves that is killed in its first second."""


@pytest.mark.slow
def test_what_wandb_lost_in_a_kill_is_sent_when_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps up to 4 were committed; 5 and 6 are repeated."""
    monkeypatch.setenv("WANDB_SILENT", "true")
    JsonlBank(RunDirectory(tmp_path)).put(1, labelled())
    own = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}  # else it would write in ours
    command = [sys.executable, "-W", "ignore", "-c", KILLED, str(tmp_path)]
    subprocess.run(command, env=own, start_new_session=True, timeout=60, check=False)
    [file] = tmp_path.glob("wandb/offline-run-*/*.wandb")
    os.truncate(file, HEADER)
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text("".join(line + "\n" for line in metrics.read_text().split("\n")[:4]))

    mirror = WandbTracker(project="rzero-test", mode="offline", directory=str(tmp_path))
    for step in (5, 6):
        mirror.log({"iteration": 1.0, "solver/reward": step}, step=step)
    mirror.close()
    first, second = written(tmp_path)
    rows = history(second)
    assert (history(first), list(rows)) == ({}, [1, 2, 3, 4, 5, 6])
    assert resumes(second)
    assert [rows[step]["solver/reward"] for step in (1, 3, 4, 5, 6)] == [1, 3, 4, 5, 6]
    assert rows[2]["questions.nrows"] == 2


@pytest.mark.parametrize(
    "begin",
    [
        lambda there: WandbTracker(project="p", mode="offline", directory=str(there)),
        lambda there: TensorBoardTracker(directory=there / "wandb"),
        lambda there: CsvTracker(path=there / "wandb" / "metrics.csv"),
    ],
)
def test_a_place_that_cannot_be_written_is_an_error_that_names_it(
    tmp_path: Path, begin: Callable[[Path], object]
) -> None:
    (tmp_path / "wandb").write_text("a file in the place of a folder")
    with pytest.raises(OSError, match="wandb") as refusal:
        begin(tmp_path)
    assert "\n" not in str(refusal.value)
    assert [path.name for path in tmp_path.iterdir()] == ["wandb"]


def test_what_wandb_refuses_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    def refuse(**_: object) -> None:
        raise wandb.errors.CommError("no\nsuch account")

    monkeypatch.setattr(wandb, "init", refuse)
    with pytest.raises(OSError, match=r"^W&B does not begin a run: no such account$"):
        WandbTracker(project="p", mode="offline", directory=str(tmp_path))


@pytest.mark.parametrize("order", [1, -1])
def test_a_table_takes_questions_without_and_with_votes_in_any_order(order: int) -> None:
    import wandb

    unanswered = Vote(label=None, count=0, divisor=3, counts=(), answers=(None, None, None))
    asked, dropped = labelled()
    empty = LabelledQuestion(
        iteration=1, index=2, question="?", challenger_answer="x", vote=unanswered, drop_reason="no_majority"
    )
    rows = [table_row(question) for question in (asked, dropped, empty)][::order]
    wandb.Table(columns=list(COLUMNS), data=rows)
    assert "\ud800" not in json.dumps(rows, ensure_ascii=False)


class OnlineRun:
    """Stands in for a run that W&B answers: remembers what it is told."""

    def __init__(self, **settings: Any) -> None:
        self.settings, self.used, self.logged = settings, [], []
        self.id, self.project, self.entity = settings["id"] or "abc123", settings["project"], "us"
        self.starting_step = 4 if settings["id"] else 0  # W&B has steps 1 to 3 when the run goes on
        self.steps: list[int] = []

    def log(self, metrics: Any, *, step: int) -> None:
        self.steps.append(step)

    def define_metric(self, *_: Any, **__: Any) -> None: ...

    def log_artifact(self, artifact: Any, aliases: list[str]) -> Any:
        self.logged.append((artifact.name, aliases))
        return SimpleNamespace(wait=lambda: artifact.name)

    def use_artifact(self, artifact: Any) -> None:
        self.used.append(artifact)

    def finish(self) -> None: ...


def test_wandb_online_draws_the_lineage_and_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    runs: list[OnlineRun] = []
    monkeypatch.setattr(wandb, "init", lambda **settings: runs.append(OnlineRun(**settings)) or runs[-1])
    monkeypatch.setenv(KEY, "a-key-that-must-not-be-kept")
    path = tmp_path / "questions_1.jsonl"
    path.write_text("{}\n")

    def tracker() -> WandbTracker:
        return WandbTracker(project="p", mode="auto", directory=str(tmp_path), artifacts=["questions", "solver"])

    first = tracker()
    first.artifact(Artifact(kind="questions", iteration=1, path=path, made_of=("challenger_1", "base")))
    first.artifact(Artifact(kind="solver", iteration=1, path=path, made_of=("questions_1", "base")))
    for step in range(1, 6):
        first.log({"iteration": 1.0}, step=step)
    rows = ({"step": step, "time/unix_s": 1.0, "iteration": 1.0} for step in range(1, 6))
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    second = tracker()
    second.log({"iteration": 1.0}, step=6)
    assert [run.steps for run in runs] == [[1, 2, 3, 4, 5], [4, 5, 6]], "W&B decides what it lacks"
    second.artifact(Artifact(kind="solver", iteration=2, path=path, made_of=("questions_2", "solver_1")))

    assert [(run.settings["mode"], run.settings["id"], run.settings["resume"]) for run in runs] == [
        ("online", None, "allow"),
        ("online", "abc123", "allow"),
    ]
    assert runs[0].logged == [("questions-abc123", ["iteration-1"]), ("solver-abc123", ["iteration-1"])]
    assert runs[0].used == ["questions-abc123"]
    assert runs[1].used == ["questions-abc123:iteration-2", "solver-abc123:iteration-1"]
    assert "a-key" not in repr([run.settings for run in runs])
    assert "a-key" not in (tmp_path / "wandb_run.json").read_text()
    monkeypatch.delenv(KEY)
    with pytest.raises(ValueError, match="set WANDB_API_KEY"):
        tracker()


def test_a_damaged_wandb_identity_is_named(tmp_path: Path) -> None:
    assert Identity.read(tmp_path) is None
    known = Identity(id="a", project="p", entity="", mode="offline", name=None, group=None)
    known.write(tmp_path)
    earlier = json.loads((tmp_path / "wandb_run.json").read_text()) | {"step": 7}
    (tmp_path / "wandb_run.json").write_text(json.dumps(earlier))
    assert Identity.read(tmp_path) == known, "of a version that kept the step there"
    (tmp_path / "wandb_run.json").write_text('{"id": 1}')
    with pytest.raises(ValueError, match=r"wandb_run\.json names no W&B run"):
        Identity.read(tmp_path)
