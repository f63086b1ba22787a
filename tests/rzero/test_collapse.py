"""Degenerate rounds end finite, counted and with a name; signs of collapse are said, and acted on when asked."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rzero.alarm import Alarm, Form, share
from rzero.collapse import Collapsed, CollapseMonitor, Limit, roll_back, stop, warn
from rzero.grpo import LossOutput, PolicyLoss, SequenceMean
from rzero.policy import load_policy
from rzero.runs.questions import NothingKept
from rzero.runs.training import NothingLearned
from rzero.selfplay import SelfPlay, SolverPhase
from rzero.tracking import read_metrics
from rzero.types import Prompt, RewardBreakdown
from tests.rzero.processes.two_processes import make_loss, settings
from tests.rzero.tiny_run import ADAMW, execute, reply, said, tiny_run

pytestmark = pytest.mark.usefixtures("quiet_lightning")


def solver(reward: Any, **changes: Any) -> SolverPhase:
    parts = {"settings": settings(updates_per_rollout=1), "loss": make_loss(), "optimizer": ADAMW, **changes}
    return SolverPhase(reward=lambda seed: reward, **parts)


def paying(total: Callable[[str, int], float]) -> Any:
    """A reward for the Solver: `total` of each response and its place in its group."""
    return lambda groups, labels: [
        [RewardBreakdown(total=total(text, sample)) for sample, text in enumerate(group)] for group in groups
    ]


def by_length(text: str, sample: int) -> float:
    return float(len(text) % 3)


def all_finite(directory: Path) -> bool:
    policy = load_policy(directory, dtype="float32", attn_implementation="sdpa")
    return all(bool(torch.isfinite(parameter).all()) for parameter in policy.model.parameters())


def rows(directory: Path, stage: str) -> list[dict[str, Any]]:
    return [row for row in read_metrics(directory / "metrics.jsonl") if f"{stage}/reward" in row]


def posing(*texts: str) -> Callable[[Prompt, int], str]:
    """A Challenger that poses these, and a Solver that answers as ever."""
    return lambda prompt, sample: texts[sample % len(texts)] if prompt.user == "Pose." else reply(prompt, sample)


def test_nothing_to_pose_is_a_named_end(tmp_path: Path, base: Path) -> None:
    with pytest.raises(NothingKept, match=r"none of 4 candidate questions was kept \(4 no_question\)"):
        execute(tiny_run(tmp_path / "run", base, script=posing(" ")))
    assert all_finite(tmp_path / "run" / "iteration_1" / "challenger")


def test_one_question_is_said_and_trained_on(tmp_path: Path, base: Path) -> None:
    run = tiny_run(tmp_path / "run", base, script=posing("7", " ", " ", " "))
    execute(run)
    assert "kept 1 of 4" in said(run)
    assert any("only 1 questions kept" in line for line in said(run))
    assert all_finite(tmp_path / "run" / "iteration_1" / "solver")


@pytest.mark.parametrize(
    ("reward", "counted"),
    [(1.0, "frac_reward_zero_std"), (math.nan, "non_finite_rewards"), (-math.inf, "non_finite_rewards")],
)
def test_rewards_that_tell_nothing_apart_are_said_and_counted(
    tmp_path: Path, base: Path, reward: float, counted: str
) -> None:
    run = tiny_run(tmp_path / "run", base, solver=solver(paying(lambda text, sample: reward)))
    execute(run)
    assert any("no group of the solver had different rewards" in line for line in said(run))
    assert all(row[f"solver/{counted}"] > 0 for row in rows(run.stages.directory.path, "solver"))
    assert all_finite(run.stages.directory.path / "iteration_1" / "solver")


def test_a_group_with_one_survivor_stays_finite(tmp_path: Path, base: Path) -> None:
    """All but one of each group of three are paid NaN."""
    totals = (math.nan, 1.0, math.nan)
    run = tiny_run(tmp_path / "run", base, solver=solver(paying(lambda text, sample: totals[sample])))
    execute(run)
    assert [row["solver/non_finite_rewards"] for row in rows(run.stages.directory.path, "solver")] == [6.0, 6.0]
    assert all_finite(run.stages.directory.path / "iteration_1" / "solver")


@pytest.mark.parametrize("kept", ["keep", "mask"])
def test_all_truncated_or_empty_responses_stay_finite_and_are_counted(tmp_path: Path, base: Path, kept: str) -> None:
    def script(prompt: Prompt, sample: int) -> str:
        long = "" if sample == 1 else "long " * 40
        return reply(prompt, sample) if prompt.user == "Pose." else long

    loss = make_loss(truncated=kept)
    short = settings(updates_per_rollout=1, sampling={"temperature": 1.0, "max_tokens": 1})
    run = tiny_run(tmp_path / "run", base, script=script, solver=solver(paying(by_length), loss=loss, settings=short))
    execute(run)
    assert all(row["solver/completions/clipped_ratio"] > 0 for row in rows(run.stages.directory.path, "solver"))
    assert all_finite(run.stages.directory.path / "iteration_1" / "solver")


def test_an_exploding_loss_leaves_the_weights_alone_and_ends_the_run_by_name(tmp_path: Path, base: Path) -> None:
    """Every gradient is infinite, so every update is skipped and counted."""

    class Exploding(PolicyLoss):
        def __call__(self, **tensors: Any) -> LossOutput:
            out = super().__call__(**tensors)
            return replace(out, loss=out.loss * math.inf)

    loss = Exploding(clip_low=0.2, clip_high=0.3, aggregation=SequenceMean(), kl_coefficient=0.1)
    run = tiny_run(tmp_path / "run", base, solver=solver(paying(by_length), loss=loss))
    with pytest.raises(NothingLearned, match=r"no update of the solver had a finite gradient.*Lower solver\.optimizer"):
        execute(run)
    assert [row["solver/skipped_steps"] for row in rows(run.stages.directory.path, "solver")] == [1.0] * 2
    assert not run.stages.ledger.done("1/solver")
    assert not (run.stages.directory.path / "iteration_1" / "solver").exists()


def test_log_probs_that_are_infinite_are_skipped(tmp_path: Path, base: Path, make_policy: Callable[..., Any]) -> None:
    """A model whose logits overflow poses nothing wrong to the loop: the run ends by name."""
    policy = make_policy("qwen3_tied")
    with torch.no_grad():
        policy.model.model.norm.weight.mul_(1e38)
    policy.save(tmp_path / "broken")
    with pytest.raises(NothingLearned, match="no update of the challenger"):
        execute(tiny_run(tmp_path / "run", tmp_path / "broken"))


LENGTHS = {"lengths": Limit(metric="completions/mean_length", low=1000, patience=2)}


def test_a_sign_is_said_once_and_changes_nothing_by_default(tmp_path: Path, base: Path) -> None:
    plain = execute(tiny_run(tmp_path / "plain", base, role={"steps": 3}))
    run = tiny_run(tmp_path / "run", base, role={"steps": 3}, collapse=CollapseMonitor(limits=LENGTHS, act=warn))
    assert execute(run) == plain
    signs = [line for line in said(run) if "sign of collapse" in line]
    assert len(signs) == 2, "one for each role"
    assert "solver/completions/mean_length is" in signs[1]
    assert "outside [1000, None], 2 rows in a row" in signs[1]


def test_a_run_can_stop_at_a_sign_and_go_on_with_another_answer(tmp_path: Path, base: Path) -> None:
    with pytest.raises(Collapsed, match="challenger/completions/mean_length"):
        execute(tiny_run(tmp_path / "run", base, collapse=CollapseMonitor(limits=LENGTHS, act=stop)))
    assert execute(tiny_run(tmp_path / "run", base)) == execute(tiny_run(tmp_path / "plain", base))


def test_a_phase_that_rolls_back_keeps_the_weights_it_started_from(tmp_path: Path, base: Path) -> None:
    run = tiny_run(tmp_path / "run", base, collapse=CollapseMonitor(limits=LENGTHS, act=roll_back))
    execute(run)
    assert not (run.stages.directory.path / "iteration_1" / "solver").exists()
    assert sum("rolled back to the weights before this phase" in line for line in said(run)) == 2
    assert list(run.stages.ledger.stages)[-1] == "1/evaluation"


BLIND = Alarm(forms={"label_accuracy": [Form(intercept=-9.0, weights={}, curve=share)]})
"""An alarm that thinks nothing of any labels."""
LABELS = {"labels": Limit(metric="alarm/label_accuracy", low=0.5)}


def test_no_solver_learns_from_questions_that_are_rolled_back_and_a_resumed_run_knows(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tiny_run(tmp_path / "run", base, collapse=CollapseMonitor(limits=LABELS, act=roll_back, alarm=BLIND))
    with monkeypatch.context() as patch:
        patch.setattr(SelfPlay, "fit_solver", stopped)
        with pytest.raises(KeyboardInterrupt):
            execute(run)
    [row] = [row for row in read_metrics(tmp_path / "run" / "metrics.jsonl") if "curriculum/kept" in row]
    assert (row["alarm/label_accuracy"] < 0.001, row["alarm/raised"]) == (True, 1.0)
    again = tiny_run(tmp_path / "run", base)
    execute(again)
    assert any("not trained" in line and "alarm/label_accuracy is" in line for line in said(again))
    assert (tmp_path / "run" / "iteration_1" / "challenger").is_dir()
    assert not (tmp_path / "run" / "iteration_1" / "solver").exists()
    assert list(again.stages.ledger.stages)[-1] == "1/evaluation"


def stopped(*_: object) -> str:
    raise KeyboardInterrupt


def test_a_streak_survives_a_stop(tmp_path: Path) -> None:
    said: list[str] = []
    monitor = CollapseMonitor(limits={"kl": Limit(metric="kl", high=1.0, patience=3)})
    monitor.look({"solver/kl": 2.0}, say=said.append)
    monitor.look({"solver/kl": math.nan}, say=said.append)
    other = CollapseMonitor(limits=monitor.limits)
    other.begin(monitor.streaks)
    other.look({"solver/kl": 2.0, "solver/kl_coefficient": 9.0, "kl": 0.5}, say=said.append)
    assert len(said) == 1
    with pytest.raises(ValueError, match="kl needs low or high"):
        Limit(metric="kl")
