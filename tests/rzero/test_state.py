"""What a run keeps on disk: atomic writes, the ledger, the bank, metrics; and seeds by name."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from rzero.bank import JsonlBank, from_row, to_row
from rzero.durable import publish_directory, write_atomically
from rzero.ledger import Ledger
from rzero.phases import question_batches
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


def test_the_ledger_remembers_completed_stages(tmp_path: Path) -> None:
    ledger = Ledger.open(tmp_path / "state.json")
    assert not ledger.done("1/solver")
    ledger.complete("1/solver", {"summary": "fine"}, metrics_bytes=10, step=3)
    again = Ledger.open(tmp_path / "state.json")
    assert again.done("1/solver")
    assert (again.metrics_bytes, again.step) == (10, 3)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"stages": {}}'])
def test_a_torn_ledger_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "state.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"state\.json is no state file"):
        Ledger.open(path)


def test_the_bank_gives_back_what_was_put(tmp_path: Path) -> None:
    bank = JsonlBank(tmp_path)
    unasked = LabelledQuestion(
        iteration=1, index=2, question="", challenger_answer=None, vote=None, drop_reason="no_question"
    )
    questions = [labelled(0), labelled(1, "separators \u2028 \u0085 and \0", "above_band"), unasked]
    bank.put(1, questions)
    assert bank.get(1) == questions
    assert [question.kept for question in bank.get(1)] == [True, False, False]
    assert len(bank.path(1).read_bytes().strip().split(b"\n")) == 3
    with pytest.raises(FileNotFoundError):
        bank.get(2)


def test_bank_files_open_in_pandas_and_datasets(tmp_path: Path) -> None:
    import datasets
    import pandas

    bank = JsonlBank(tmp_path / "bank")
    bank.put(1, [labelled(0), labelled(1, reason="below_band")])
    frame = pandas.read_json(bank.path(1), lines=True)
    assert list(frame["kept"]) == [True, False]
    assert frame["agreement"][0] == pytest.approx(2 / 3)
    data = datasets.Dataset.from_json(str(bank.path(1)), cache_dir=str(tmp_path / "cache"))
    assert data[0]["answers"] == ["2", None, "3"]
    assert from_row(to_row(labelled(0))) == labelled(0)


def test_metrics_rewind_to_a_commit(tmp_path: Path) -> None:
    tracker = JsonlTracker(tmp_path / "metrics.jsonl")
    Fanout([tracker, NullTracker()]).log({"solver/reward": 0.5}, step=1)
    position = tracker.position()
    tracker.log({"solver/reward": float("nan")}, step=2)
    assert read_metrics(tracker.path)[1]["solver/reward"] is None
    tracker.rewind(position)
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
