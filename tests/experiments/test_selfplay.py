"""The loop on the real micro model: reproducible, resumable, blind to oracle and gold, honest about empty rounds."""

from __future__ import annotations

import functools
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from evaluation.judging import Document, Judge, Judged
from evaluation.micro.audit import OracleAudit
from evaluation.micro.world import Problem
from experiments.reporting import outline, panels
from experiments.reporting.data import read_run
from rzero.policy import load_policy
from rzero.runs.questions import NothingKept
from rzero.selfplay import SelfPlay
from rzero.tracking import Fanout, NullTracker, is_timing, read_metrics
from rzero.types import Artifact, LabelledQuestion
from tests.experiments.small import SHRUNK, config, small_run


def without_times(directory: Path) -> list[dict[str, Any]]:
    """Metrics without what measures the machine."""
    rows = read_metrics(directory / "metrics.jsonl")
    return [{name: value for name, value in row.items() if not is_timing(name)} for row in rows]


def weights(directory: Path) -> dict[str, str]:
    """Fingerprints of all weights a run has written."""
    return {
        str(path.relative_to(directory)): load_policy(path, dtype="float32", attn_implementation="sdpa").weights_hash()
        for path in sorted(directory.glob("iteration_*/*/"))
    }


def questions(directory: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted((directory / "questions").iterdir())}


def execute(selfplay: SelfPlay) -> Path:
    selfplay.run()
    selfplay.close()
    return selfplay.stages.directory.path


class Recorder(NullTracker):
    """A tracker that remembers what it was told besides metrics."""

    def __init__(self) -> None:
        self.posed: list[tuple[int, int]] = []
        self.made: list[Artifact] = []

    def questions(self, labelled: Sequence[LabelledQuestion], *, step: int) -> None:
        self.posed.append((step, len(labelled)))

    def artifact(self, made: Artifact) -> None:
        assert made.path.exists()
        self.made.append(made)


@pytest.fixture(scope="module")
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, recorder: Recorder) -> Path:
    selfplay = small_run(tmp_path_factory.mktemp("run"))
    selfplay.stages.tracker = Fanout([selfplay.stages.tracker, recorder])
    return execute(selfplay)


def test_a_tracker_is_told_what_was_made_of_what(finished: Path, recorder: Recorder) -> None:
    steps = [row["step"] for row in without_times(finished) if "curriculum/kept" in row]
    assert recorder.posed == [(step, 32) for step in steps]
    assert {made.name: made.made_of for made in recorder.made} == {
        "challenger_1": ("base", "base"),
        "questions_1": ("challenger_1", "base"),
        "solver_1": ("questions_1", "base"),
        "challenger_2": ("challenger_1", "solver_1"),
        "questions_2": ("challenger_2", "solver_1"),
        "solver_2": ("questions_2", "solver_1"),
    }


def test_a_run_trains_both_roles_and_evaluates_every_round(finished: Path) -> None:
    hashes = weights(finished)
    assert set(hashes) == {f"iteration_{i}/{role}" for i in (1, 2) for role in ("challenger", "solver")}
    assert len(set(hashes.values())) == 4
    rows = without_times(finished)
    assert [row["iteration"] for row in rows if "evaluation/overall" in row] == [0, 1, 2]
    assert sum("challenger/reward" in row for row in rows) == 4
    assert sum("solver/reward" in row for row in rows) == 4
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    bank = [row for row in rows if "curriculum/kept" in row]
    assert all(row["curriculum/candidates"] == 32 for row in bank)
    assert all(row["curriculum/kept"] > 0 for row in bank)


def test_a_real_run_has_every_metric_that_a_report_at_wandb_draws(finished: Path) -> None:
    (finished / "config.yaml").write_text(OmegaConf.to_yaml(config(*SHRUNK)), encoding="utf-8")
    run = read_run(finished)
    drawn = [panel for section in outline.of_run(run) for panel in panels.wanted(section.id, runs=[run])]
    named = {metric for panel in drawn if isinstance(panel, panels.Curves) for metric in panel.metrics}
    assert {"evaluation/overall", "solver/reward", "challenger/kl"} <= named
    assert named <= run.logged


def test_the_same_seed_gives_the_same_run(finished: Path, tmp_path: Path) -> None:
    again = execute(small_run(tmp_path / "again"))
    assert without_times(again) == without_times(finished)
    assert weights(again) == weights(finished)
    assert questions(again) == questions(finished)


def test_another_seed_gives_another_run(finished: Path, tmp_path: Path) -> None:
    other = execute(small_run(tmp_path / "other", "seed=1", "iterations=1"))
    assert questions(other)["questions_1.jsonl"] != questions(finished)["questions_1.jsonl"]


@pytest.mark.slow
@pytest.mark.parametrize("broken", ["1/solver", "2/challenger", "2/evaluation"])
def test_a_run_that_broke_off_in_any_stage_ends_with_the_same_numbers(
    finished: Path, tmp_path: Path, broken: str
) -> None:
    directory = tmp_path / "broken"
    first = small_run(directory)
    complete = first.stages.ledger.complete

    def fail_before_commit(stage: str, *rest: Any, **kwargs: Any) -> None:
        if stage == broken:
            raise OSError("the power went out")
        complete(stage, *rest, **kwargs)

    first.stages.ledger = _Breaking(first.stages.ledger, fail_before_commit)  # type: ignore[assignment]
    with pytest.raises(OSError, match="power"):
        first.run()
    first.close()

    resumed = small_run(directory)
    assert not resumed.stages.ledger.done(broken)
    execute(resumed)
    assert without_times(directory) == without_times(finished)
    assert weights(directory) == weights(finished)
    assert questions(directory) == questions(finished)


class _Breaking:
    """A ledger whose commit fails at one stage, after the stage's files and metrics were written."""

    def __init__(self, ledger: Any, complete: Any) -> None:
        self.__dict__.update(ledger=ledger, complete=complete)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.ledger, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.ledger, name, value)


def _against_nonsense(judge: Judge, document: Document, responses: Sequence[str]) -> Judged:
    return judge({**document, "answer": "nonsense", "answers": ["nonsense"]}, responses)


BEYOND = (
    "iterations=2",  # in the second, parts that look back have something to look at
    "signals=all",
    "acceptance@solver=not_worse",
    "anchors@curriculum=ema",
    "curriculum.anchors.votes=2",
    "curriculum/rule=replay",
    "curriculum/rule@curriculum.rule.rule=balanced",
    "curriculum/rule@curriculum.rule.rule.rule=anchored",
    "curriculum.rule.rule.rule.least=0.0",
    "rewording@curriculum=agree",
    "curriculum.rewording.least=0.0",  # the micro model says nothing in other words: what counts is who is asked
    "substitution@curriculum=fits",
    "curriculum.substitution.least=0.0",
    "challenger_reward@challenger.reward=coverage",
    "challenger_reward@challenger.reward.reward=governor",
    "challenger_reward@challenger.reward.reward.reward=semantic_memory",
    "solver_reward@solver.reward=novelty",
    "vocabulary=dropout",
)
"""Everything that acts or looks against a collapse, together."""


@pytest.mark.slow
@pytest.mark.parametrize("overrides", [(), BEYOND], ids=["paper", "beyond"])
def test_neither_oracle_nor_gold_answers_reach_training(
    overrides: tuple[str, ...], finished: Path, tmp_path: Path
) -> None:
    """Replacing the oracle by noise and every gold answer by nonsense changes no weight and no kept question."""
    if overrides:
        finished = execute(small_run(tmp_path / "seeing", *overrides))
    blind = small_run(tmp_path / "blind", *overrides)
    rng = random.Random(0)

    def noise(question: str) -> tuple[Problem, str] | None:
        known = Problem(family="sum", level=rng.randint(1, 9), state=())
        return None if rng.random() < 0.5 else (known, str(rng.random()))

    blind.audit = OracleAudit(grader=blind.audit.grader, oracle=noise)  # type: ignore[attr-defined]
    for task in blind.suite.tasks.values():
        task.judge = functools.partial(_against_nonsense, task.judge)
    directory = execute(blind)
    assert weights(directory) == weights(finished)
    assert questions(directory) == questions(finished)
    signals = [{name: row[name] for name in row if name.startswith("signals/")} for row in without_times(directory)]
    assert signals == [
        {name: row[name] for name in row if name.startswith("signals/")} for row in without_times(finished)
    ]
    assert any(signals) == bool(overrides)
    measured = [row for row in without_times(directory) if "audit/label_accuracy" in row]
    assert measured != [row for row in without_times(finished) if "audit/label_accuracy" in row]
    assert max(row.get("evaluation/overall", 0) for row in without_times(directory)) == 0


def test_an_empty_round_is_a_named_outcome_with_counts_and_can_be_resumed(tmp_path: Path) -> None:
    strict = "curriculum.rule.band.half_width=0.0"
    selfplay = small_run(tmp_path / "empty", strict, "curriculum.votes=3")
    with pytest.raises(NothingKept, match=r"none of 32 candidate questions was kept \(.*\d+ .*Widen the band"):
        selfplay.run()
    selfplay.close()
    assert len(selfplay.bank.get(1)) == 32
    assert not any(question.kept for question in selfplay.bank.get(1))
    assert selfplay.stages.ledger.done("1/challenger")


def test_an_untrained_challenger_poses_as_the_base_model_does(tmp_path: Path) -> None:
    directory = execute(small_run(tmp_path / "untrained", "challenger.settings.steps=0", "iterations=1"))
    assert set(weights(directory)) == {"iteration_1/solver"}
