"""What a run keeps on disk: atomic writes, the ledger, the bank, metrics; and seeds by name."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from rzero.durable import (
    fingerprints,
    new_directory,
    publish_directory,
    remove_leftovers,
    require_space,
    write_atomically,
)
from rzero.modules.fit import question_batches
from rzero.runs.bank import JsonlBank, from_row, to_row
from rzero.runs.directory import RunDirectory
from rzero.runs.ledger import Ledger
from rzero.seeding import derive
from rzero.tracking import Fanout, JsonlTracker, NullTracker, is_timing, read_metrics
from rzero.types import LabelledQuestion, Vote


def labelled(index: int, text: str = "What is 1 + 1?", reason: str | None = None) -> LabelledQuestion:
    vote = Vote(label="2", count=2, divisor=3, counts=(("2", 2), ("3", 1)), answers=("2", None, "3"))
    return LabelledQuestion(
        iteration=1, index=index, question=text, challenger_answer="2", vote=vote, drop_reason=reason
    )


def test_a_write_replaces_the_file_and_leaves_no_temporary(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    write_atomically(path, b"one")
    write_atomically(path, b"two")
    assert path.read_bytes() == b"two"
    assert os.listdir(path.parent) == ["file"]


def test_a_failed_write_keeps_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def no_space(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", no_space)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_published_directory_replaces_a_leftover(tmp_path: Path) -> None:
    (tmp_path / "final").mkdir()
    (tmp_path / "final" / "half").write_text("torn")
    (tmp_path / "partial").mkdir()
    (tmp_path / "partial" / "whole").write_text("complete")
    publish_directory(tmp_path / "partial", tmp_path / "final")
    assert os.listdir(tmp_path / "final") == ["whole"]
    assert not (tmp_path / "partial").exists()


def test_a_folder_that_failed_leaves_the_old_one_and_nothing_else(tmp_path: Path) -> None:
    with new_directory(tmp_path / "model") as folder:
        (folder / "weights").write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), new_directory(tmp_path / "model") as folder:  # noqa: PT012
        (folder / "weights").write_bytes(b"new")
        _ = 1 / 0
    assert (tmp_path / "model" / "weights").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["model"]


def test_leftovers_of_a_killed_writer_are_removed_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "iteration_1" / ".solver.partial").mkdir(parents=True)
    (tmp_path / "iteration_1" / ".solver.partial" / "half").touch()
    (tmp_path / ".challenger.old").mkdir()
    (tmp_path / ".state.json.tmp").touch()
    kept = [tmp_path / ".lock", tmp_path / "notes.tmp", tmp_path / "iteration_1" / "file"]
    for path in kept:
        path.touch()
    remove_leftovers(tmp_path)
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(kept)
    assert [path for path in tmp_path.rglob("*") if path.is_dir()] == [tmp_path / "iteration_1"]


def test_temporary_files_lie_beside_the_file_so_that_a_rename_is_never_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", "/nowhere")
    renamed = []
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda old, new: (renamed.append((Path(old), Path(new))), replace(old, new)))
    write_atomically(tmp_path / "file", b"data")
    with new_directory(tmp_path / "folder") as folder:
        (folder / "file").touch()
    assert len(renamed) == 2
    assert all(old.parent == new.parent == tmp_path for old, new in renamed)


def test_too_little_room_is_said_before_work_begins(tmp_path: Path) -> None:
    require_space(tmp_path, 1, purpose="a phase")
    with pytest.raises(OSError, match=r"a phase needs .* MB of disk, only .* are free; make room") as error:
        require_space(tmp_path, 1 << 60, purpose="a phase")
    assert error.value.filename == str(tmp_path)


def files_of(directory: Path, *names: str) -> dict[str, str]:
    return fingerprints([directory / name for name in names], root=directory)


def two_stages(directory: Path) -> Ledger:
    """Two completed stages with a file each, and metrics."""
    ledger, tracker = Ledger.open(directory / "state.json"), JsonlTracker(directory / "metrics.jsonl")
    ledger.begin("seed: 0")
    for number, stage in enumerate(("1/challenger", "1/questions"), start=1):
        write_atomically(directory / f"file{number}", b"content" * number)
        tracker.log({"reward": 0.5}, step=number)
        ledger.step = number
        files = files_of(directory, f"file{number}")
        ledger.complete(stage, {"summary": "fine"}, files=files, metrics=tracker.position())
    tracker.close()
    return ledger


def test_the_ledger_remembers_what_is_done(tmp_path: Path) -> None:
    assert not Ledger.open(tmp_path / "state.json").done("1/questions")
    ledger = two_stages(tmp_path)
    again = Ledger.open(tmp_path / "state.json")
    assert again.done("1/questions")
    assert (again.stages, again.step, again.config) == (ledger.stages, 2, "seed: 0")
    assert again.last.metrics.size == (tmp_path / "metrics.jsonl").stat().st_size
    again.forget_damaged(tmp_path)
    assert (again.stages, again.notes) == (ledger.stages, [])


def test_a_checkpoint_lasts_until_its_stage_is_complete(tmp_path: Path) -> None:
    ledger = two_stages(tmp_path)
    ledger.step = 7
    ledger.pause("1/solver", {"rollouts": 5}, files={}, metrics=ledger.last.metrics)
    again = Ledger.open(tmp_path / "state.json")
    assert again.paused("1/solver") == {"stage": "1/solver", "rollouts": 5}
    assert again.paused("1/challenger") is None
    assert (again.step, again.done("1/solver")) == (7, False)
    again.complete("1/solver", {}, files={}, metrics=ledger.last.metrics)
    assert Ledger.open(tmp_path / "state.json").paused("1/solver") is None


def test_a_damaged_file_takes_its_stage_and_all_later_ones_with_it(tmp_path: Path) -> None:
    two_stages(tmp_path)
    (tmp_path / "file1").write_bytes(b"kontent")
    ledger = Ledger.open(tmp_path / "state.json")
    ledger.recover(tmp_path)
    assert list(ledger.stages) == []
    assert [path.name for path in sorted((tmp_path / "set_aside").iterdir())] == ["file1", "file2"]
    assert not (tmp_path / "file2").exists(), "work that is repeated does not find what it left"
    [note] = ledger.notes
    assert f"{tmp_path}/file1 is not what was written" in note
    assert "1/challenger, 1/questions will be done again" in note
    assert list(Ledger.open(tmp_path / "state.json").stages) == []

    two_stages(tmp_path)
    (tmp_path / "file2").unlink()
    ledger = Ledger.open(tmp_path / "state.json")
    ledger.recover(tmp_path)
    assert list(ledger.stages) == ["1/challenger"]
    assert "file2 is missing" in ledger.notes[0]
    assert ledger.step == 1


@pytest.mark.parametrize("text", ["", "{", "[]", '{"stages": {}}', None])
def test_a_damaged_ledger_gives_way_to_the_state_before_it(tmp_path: Path, text: str | None) -> None:
    two_stages(tmp_path)
    path = tmp_path / "state.json"
    path.unlink()
    if text is not None:
        path.write_text(text)
    ledger = Ledger.open(path)
    assert list(ledger.stages) == ["1/challenger"]
    assert "state.json is damaged" in ledger.notes[0]
    ledger.recover(tmp_path)
    assert Ledger.open(path).notes == []


@pytest.mark.parametrize("text", ["", "{", "[]", '{"stages": {}}'])
def test_without_a_whole_state_the_run_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "state.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"state\.json is no state file"):
        Ledger.open(path)


def test_the_bank_gives_back_what_was_put(tmp_path: Path) -> None:
    bank = JsonlBank(RunDirectory(tmp_path))
    unasked = LabelledQuestion(
        iteration=1, index=2, question="", challenger_answer=None, vote=None, drop_reason="no_question"
    )
    questions = [labelled(0), labelled(1, "separators \u2028 \u0085 and \0", "above_band"), unasked]
    bank.put(1, questions)
    assert bank.get(1) == questions
    assert [question.kept for question in bank.get(1)] == [True, False, False]
    assert len(bank.directory.questions(1).read_bytes().strip().split(b"\n")) == 3
    with pytest.raises(FileNotFoundError):
        bank.get(2)


def test_bank_files_open_in_pandas_and_datasets(tmp_path: Path) -> None:
    import datasets
    import pandas

    bank = JsonlBank(RunDirectory(tmp_path))
    bank.put(1, [labelled(0), labelled(1, reason="below_band")])
    frame = pandas.read_json(bank.directory.questions(1), lines=True)
    assert list(frame["kept"]) == [True, False]
    assert frame["agreement"][0] == pytest.approx(2 / 3)
    data = datasets.Dataset.from_json(str(bank.directory.questions(1)), cache_dir=str(tmp_path / "cache"))
    assert data[0]["answers"] == ["2", None, "3"]
    assert from_row(to_row(labelled(0))) == labelled(0)


def test_metrics_rewind_to_a_commit(tmp_path: Path) -> None:
    tracker = JsonlTracker(tmp_path / "metrics.jsonl")
    Fanout([tracker, NullTracker()]).log({"solver/reward": 0.5}, step=1)
    position = tracker.position()
    tracker.log({"solver/reward": float("nan")}, step=2)
    assert read_metrics(tracker.path)[1]["solver/reward"] is None
    tracker.rewind(position.size)
    assert tracker.position() == position
    tracker.log({"solver/reward": 0.25}, step=2)
    tracker.close()
    assert [row["solver/reward"] for row in read_metrics(tracker.path)] == [0.5, 0.25]


def test_timings_are_told_from_results() -> None:
    assert all(map(is_timing, ["time/unix_s", "solver/timing_s/rollout", "perf/peak_rss_gib", "solver/perf/mfu"]))
    assert not any(map(is_timing, ["step", "solver/reward", "evaluation/sum/greedy", "curriculum/kept"]))


def test_seeds_are_named_and_stable() -> None:
    assert derive(0, "solver", 1) == derive(0, "solver", 1)
    assert (
        len({derive(0, "solver", 1), derive(1, "solver", 1), derive(0, "solver", 2), derive(0, "s", "olver", 1)}) == 4
    )
    assert 0 <= derive(123, "x") < 2**63


def test_every_question_is_seen_before_any_is_seen_again() -> None:
    questions = [labelled(index) for index in range(5)]
    batches = question_batches(questions, steps=5, size=3, seed=1)
    order = [question.index for batch in batches for question in batch]
    assert [len(batch) for batch in batches] == [3] * 5
    for epoch in range(3):
        assert sorted(order[5 * epoch : 5 * epoch + 5]) == list(range(5))
    assert json.dumps(order) == json.dumps(
        [q.index for batch in question_batches(questions, steps=5, size=3, seed=1) for q in batch]
    )


def test_a_batch_larger_than_the_questions_repeats_them() -> None:
    [batch] = question_batches([labelled(0), labelled(1)], steps=1, size=5, seed=0)
    assert len(batch) == 5
    assert {question.index for question in batch} == {0, 1}


def test_a_run_directory_names_its_evaluated_iterations_in_order(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    for iteration in (10, 0, 2):
        run.scores(iteration).parent.mkdir()
        run.scores(iteration).write_text("{}")
    (tmp_path / "iteration_3").mkdir()
    (tmp_path / "iteration_2_old").mkdir()
    assert run.evaluated() == [0, 2, 10]
