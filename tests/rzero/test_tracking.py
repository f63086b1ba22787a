"""Mirrors of the metrics: what they hold after a run that was stopped and resumed, and what they never hold."""

from __future__ import annotations

import csv
import inspect
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rzero.interfaces import Tracker
from rzero.runs.bank import JsonlBank
from rzero.runs.directory import RunDirectory
from rzero.tracking import CsvTracker, Fanout, JsonlTracker, NullTracker, TensorBoardTracker, WandbTracker
from rzero.tracking.weights_and_biases import COLUMNS, KEY, Identity
from rzero.types import Artifact, LabelledQuestion, Vote

TRACKERS = (CsvTracker, Fanout, JsonlTracker, NullTracker, TensorBoardTracker, WandbTracker)
EVIL = '=HYPERLINK("http://evil.example")\x1b[31m\u202e\ud800'


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
        tracker.log({"iteration": 1.0, "solver/reward": step / 4}, step=step)
        if step == 2:
            tracker.questions(labelled(), step=step)
            posed = RunDirectory(directory).questions(1)
            tracker.artifact(Artifact(kind="questions", iteration=1, path=posed, made_of=("base",)))
    tracker.artifact(Artifact(kind="solver", iteration=1, path=directory / "solver", made_of=("questions_1", "base")))
    tracker.artifact(Artifact(kind="challenger", iteration=1, path=directory / "nowhere", made_of=("base",)))
    tracker.close()


def written(directory: Path) -> list[dict[str, Any]]:
    """Every record of every offline file, as W&B's own reader prints them, oldest file first."""
    files = sorted(directory.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime_ns)
    records = []
    for path in files:
        command = [sys.executable, "-W", "ignore", "-m", "wandb", "leet", "inspect", "--json", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        records += [json.loads(line) for line in done.stdout.split("\n") if line.startswith("{")]
    return records


@pytest.mark.slow
def test_wandb_offline_is_one_run_without_repeated_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY, raising=False)
    monkeypatch.setenv("WANDB_SILENT", "true")
    JsonlBank(RunDirectory(tmp_path)).put(1, labelled())
    (tmp_path / "solver").mkdir()
    (tmp_path / "solver" / "config.json").write_text("{}")
    attempt(tmp_path, steps=range(1, 4))
    attempt(tmp_path, steps=range(2, 6))  # resumed from step 1
    records = written(tmp_path)

    runs = [record["run"] for record in records if record["type"] == "run"]
    assert len(runs) == 2
    assert {run["run_id"] for run in runs} == {json.loads((tmp_path / "wandb_run.json").read_text())["id"]}
    assert {(run["display_name"], run["run_group"]) for run in runs} == {("micro_seed0", "band_now")}
    history = [record["history"]["item"] for record in records if record["type"] == "history"]
    assert [(row["_step"], row["solver/reward"]) for row in history] == [(n, n / 4) for n in (1, 2, 3, 4, 5)]
    axes = {r["metric"]["glob_name"]: r["metric"]["step_metric"] for r in records if "glob_name" in r.get("metric", {})}
    assert axes == dict.fromkeys(("evaluation/*", "curriculum/*", "audit/*"), "iteration")

    made = [record["artifact"] for record in records if record["type"] == "artifact"]
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


class OnlineRun:
    """Stands in for a run that W&B answers: remembers what it is told."""

    def __init__(self, **settings: Any) -> None:
        self.settings, self.used, self.logged = settings, [], []
        self.id, self.project, self.entity = settings["id"] or "abc123", settings["project"], "us"

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
    second = tracker()
    second.artifact(Artifact(kind="solver", iteration=2, path=path, made_of=("questions_2", "solver_1")))

    assert [(run.settings["mode"], run.settings["id"], run.settings["resume"]) for run in runs] == [
        ("online", None, "allow"),
        ("online", "abc123", "allow"),
    ]
    assert runs[0].logged == [("questions-abc123", ["iteration-1"]), ("solver-abc123", ["iteration-1"])]
    assert runs[0].used == ["questions-abc123"]
    assert runs[1].used == ["questions-abc123:iteration-2", "solver-abc123:iteration-1"]
    assert "a-key" not in json.dumps([run.settings for run in runs])
    assert "a-key" not in (tmp_path / "wandb_run.json").read_text()
    monkeypatch.delenv(KEY)
    with pytest.raises(ValueError, match="set WANDB_API_KEY"):
        tracker()


def test_a_damaged_wandb_identity_is_named(tmp_path: Path) -> None:
    assert Identity.read(tmp_path) is None
    (tmp_path / "wandb_run.json").write_text('{"id": 1}')
    with pytest.raises(ValueError, match=r"wandb_run\.json names no W&B run"):
        Identity.read(tmp_path)
