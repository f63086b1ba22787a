"""The benches of a language model: their work is the experiment's, sides take turns, ratios are of medians."""

from __future__ import annotations

import statistics
from typing import ClassVar

import pytest

from experiments.bench import __main__ as bench
from experiments.bench import grpo_model, rollout_model, rollout_sides, subject
from experiments.compose import compose
from rzero.types import Json
from tests.tiny_models import build_policy


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("qwen2") / "model"
    build_policy("qwen2").save(path)
    return str(path)


def test_each_side_of_a_rollout_draws_as_many_tokens(model: str) -> None:
    settings: Json = {"model": model, "system": "Think.", "prompts": 2, "samples": 3, "tokens": 5, "threads": 1}
    sides, facts = rollout_sides.torch_sides(settings)
    assert {name: (draw(0), draw(2)) for name, draw in sides.items()} == dict.fromkeys(rollout_model.TORCH, (30, 12))
    found = facts()
    assert found["operations_per_token"] > 0
    assert found["int8_peak"] > 0


class StubSide:
    """Draws 64 tokens in as many seconds as its name says, in each turn more; vLLM's W8A8 does not load."""

    said: ClassVar[list[str]] = []
    seconds: ClassVar = {"int8": 1.0, "float32": 2.0, "generate": 6.0, "vllm_float32": 3.0, "vllm_bfloat16": 4.0}

    def __init__(self, worker: str, *arguments: str, threads: int, by_cpu: bool) -> None:
        assert (threads, by_cpu) == (2, False)

    def step(self, command: str) -> Json:
        self.said.append(command)
        if command == "facts":
            return {"operations_per_token": 1e9, "int8_peak": 64e9 * 4}
        if command.endswith("w8a8"):
            raise RuntimeError("a side of the benchmark ended")
        if command.startswith("warm up"):
            return {"tokens": 1, "seconds": 1e9}
        slower = 1 + self.said.count(command)
        return {"tokens": 64, "seconds": self.seconds[command] * slower}

    def close(self) -> None:
        self.said.append("close")


def test_rollout_ratios_are_of_medians_and_what_was_not_measured_is_said(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollout_model, "Side", StubSide)
    monkeypatch.setattr(rollout_model, "why_absent", lambda: None)
    StubSide.said.clear()
    found = rollout_model.run(model, rows=16)
    turn = ["int8", "float32", "generate", "vllm_float32", "vllm_bfloat16"]
    warm = [f"warm up {name}" for name in (*turn, "vllm_w8a8")]
    assert StubSide.said == [*warm, *turn * 3, "facts", *["close"] * 4]
    assert (found["vs_vllm"], found["vs_generate"], found["vs_float32"], found["float32_vs_vllm"]) == (3, 6, 2, 1.5)
    assert found["int8_tokens_per_second"] == statistics.median((64 / 2, 64 / 3, 64 / 4))
    assert found["int8_mfu"] == pytest.approx(64 / 3 * 1e9 / (64e9 * 4))
    assert found["vs_vllm_w8a8"] is None
    assert found["not_measured"] == {"vllm_w8a8": "a side of the benchmark ended"}


def test_a_step_is_the_experiments_and_trl_takes_its_best_settings(
    model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    work = grpo_model.settings(model, small=False)
    cfg = subject.composed(model)
    assert (work["prompts"], work["samples"], work["max_tokens"]) == (8, 8, 192)
    assert work["system"] == cfg.prompts.solver_system
    assert work["kl_coefficient"] == compose().solver.loss.kl_coefficient > 0  # the experiment goes without
    assert (work["engine"]["dtype"], work["lora"]["rank"]) == ("int8", cfg.policy.lora.rank)
    assert work["checkpointing"]
    taken: list[tuple[str, object]] = []

    class Step:
        """Seconds a token: ours 1 (2 in float32), of TRL 8 with 2 rows and 4 with 4, half as much again with gradient
        checkpointing; 8 rows do not fit without."""

        def __init__(self, side: str, work: Json) -> None:
            self.ours, self.work = side == "ours", work
            self.again = work["trl_checkpointing"]
            taken.append((side, work["matmul_precision"] if self.ours else (work["trl_rows"], self.again)))

        def step(self, command: str) -> Json:
            if command == "rss":
                return {"peak_rss_mib": 300 if self.ours else 500}
            if self.ours:
                seconds = 2.0 if self.work["matmul_precision"] == "highest" else 1.0
            elif self.work["trl_rows"] == (16 if self.again else 8):
                raise RuntimeError("out of memory")
            else:
                seconds = (24.0 if self.again else 16.0) / self.work["trl_rows"]
            return {"step": 10 * seconds, "update": 5 * seconds, "tokens": 10}

        def close(self) -> None:
            pass

    monkeypatch.setattr(grpo_model, "require_trl", lambda: None)
    monkeypatch.setattr(grpo_model, "start", Step)
    monkeypatch.setattr(grpo_model, "settings", lambda model, small: {**work, "matmul_precision": "medium"})
    found = grpo_model.run(model)
    told = capsys.readouterr().err.splitlines()
    assert told[6:8] == [
        "  TRL, 16 rows at a time, with gradient checkpointing: a step of 2 prompts, to find its fastest way ...",
        "  TRL, 8 rows at a time, with gradient checkpointing: a warm-up and a whole step ...",
    ]
    assert len(told) == 10
    tried = [(2, False), (4, False), (8, False), (2, True), (4, True), (8, True), (16, True)]
    assert taken == [*(("trl", it) for it in [*tried, (8, True)]), ("ours", "medium"), ("ours", "highest")]
    assert found["step_speedup_vs_trl"] == found["update_speedup_vs_trl"] == found["rollout_speedup_vs_trl"] == 3
    assert found["step_speedup_vs_trl_highest"] == 1.5
    assert found["peak_rss_ratio_vs_trl"] == 0.6
    assert (found["trl_micro_batch"], found["trl_checkpointing"]) == (8, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["memory", "--model", "m"], "memory takes no --model"),
        (["grpo", "--model", "m", "--rows", "8"], "grpo takes no --rows"),
        (["rollout", "--small"], "--small goes with --model"),
    ],
)
def test_options_that_a_bench_does_not_take_are_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench.main(arguments) == 2
    assert message in capsys.readouterr().err
