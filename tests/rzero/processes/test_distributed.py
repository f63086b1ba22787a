"""Two gloo processes against one: the same losses, gradients and weights, for DDP and FSDP2, full and LoRA."""

from __future__ import annotations

import functools
import json
import re
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from rzero.adapters import adapter_weights, holds_adapters
from rzero.engines.embedded import EmbeddedEngine
from rzero.gathering import merged_weights
from rzero.modules.batching import balance
from rzero.processes.launch import RankConfig, launch
from rzero.processes.ranks import Ranks, joined
from rzero.selfplay import SelfPlay
from rzero.sharding import is_outline
from rzero.tracking import is_timing, read_metrics
from rzero.types import Prompt, Sampling
from tests.experiments.small import small_run
from tests.rzero.processes import two_processes
from tests.rzero.processes.two_processes import (
    CASES,
    ROUNDED,
    SERVED,
    SETTINGS,
    SIZE,
    FirstDraws,
    load,
    make_engine,
    near_float32,
    train,
    train_rounded,
)
from tests.rzero.processes.workers import failing_worker
from tests.rzero.tiny_run import tiny_run


@contextmanager
def quiet() -> Iterator[None]:
    """Lightning and torch warn about their own internals when processes start."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture(scope="module")
def base(tmp_path_factory, make_policy) -> Path:
    path = tmp_path_factory.mktemp("base") / "model"
    make_policy("qwen3_tied").save(path)
    earlier = load(path, tuning="lora")
    for name, tensor in adapter_weights(earlier.model).items():
        tensor.normal_(std=0.05, generator=torch.Generator().manual_seed(len(name)))
    earlier.save(path.with_name("earlier"))
    return path


def weights_in(directory: Path) -> dict[str, torch.Tensor]:
    """Of an ordinary directory or of one with adapters."""
    return merged_weights(load(directory, tuning="full").model)


@pytest.fixture(scope="module")
def trained(base, tmp_path_factory) -> Path:
    """Every case in one process and in two; the two are started once."""
    folder = tmp_path_factory.mktemp("trained")
    with quiet():
        for role, tuning, _ in CASES:
            train(base, folder / f"{role}_{tuning}_one", role=role, tuning=tuning, strategy="one", ranks=Ranks())
        for role in ("challenger", "solver"):
            target = folder / f"{role}_float32.json"
            train_rounded(base, target, role=role, strategy="one", precision="32-true", ranks=Ranks())
        worker = functools.partial(two_processes.training_worker, str(base), str(folder))
        with launch(size=SIZE, worker=worker) as ranks:
            two_processes.train_all(base, folder, ranks)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("role", "tuning", "strategy"), CASES)
def test_two_processes_train_as_one_does(trained: Path, base: Path, role: str, tuning: str, strategy: str) -> None:
    expected_steps = json.loads((trained / f"{role}_{tuning}_one.json").read_text())
    steps = json.loads((trained / f"{role}_{tuning}_{strategy}.json").read_text())
    assert len(steps) == len(expected_steps) == 2
    for step, expected in zip(steps, expected_steps, strict=True):
        assert step.keys() == expected.keys()
        for name, value in expected.items():
            if not is_timing(name):
                assert step[name] == pytest.approx(value, abs=1e-5, rel=1e-5), name
        assert expected[f"{role}/grad_norm"] > 0
    start = weights_in(base.with_name("earlier") if (role, tuning) == ("solver", "lora") else base)
    expected_weights = weights_in(trained / f"{role}_{tuning}_one")
    weights = weights_in(trained / f"{role}_{tuning}_{strategy}")
    assert weights.keys() == expected_weights.keys() == start.keys()
    for name, tensor in weights.items():
        torch.testing.assert_close(tensor, expected_weights[name], atol=1e-5, rtol=0)
    moved = max(float((expected_weights[name] - start[name]).abs().max()) for name in start)
    assert moved > 1e-3, "nothing was learned, so nothing was compared"


@pytest.mark.slow
@pytest.mark.parametrize(("role", "strategy"), ROUNDED)
def test_two_processes_train_in_bf16(trained: Path, role: str, strategy: str) -> None:
    """The first step is near that of one process in float32; the second follows a sync of what it learned.

    One process in bf16 is in `tests/gpu`, which runs on the CPU too.
    """
    [expected, _] = json.loads((trained / f"{role}_float32.json").read_text())
    [first, second] = json.loads((trained / f"{role}_{strategy}_bf16.json").read_text())
    near_float32(first, expected, role=role)
    assert second[f"{role}/kl"] > 0
    assert second[f"{role}/grad_norm"] > 0


@pytest.mark.slow
@pytest.mark.parametrize(("role", "tuning", "strategy"), CASES)
def test_several_processes_go_on_exactly_from_a_checkpoint(
    trained: Path, role: str, tuning: str, strategy: str
) -> None:
    """With weights and optimiser split over them or not."""
    file = "adapter_model.safetensors" if tuning == "lora" else "model.safetensors"
    whole = load_file(trained / f"{role}_{tuning}_{strategy}" / file)
    resumed = load_file(trained / f"{role}_{tuning}_{strategy}_resumed" / file)
    assert resumed.keys() == whole.keys()
    for name, tensor in whole.items():
        assert torch.equal(resumed[name], tensor), name


@pytest.mark.slow
@pytest.mark.parametrize(("role", "tuning", "strategy"), SERVED)
def test_ranks_that_hold_an_outline_train_as_with_the_whole_model(
    trained: Path, role: str, tuning: str, strategy: str
) -> None:
    """From the start and from a checkpoint, to the bit."""
    file = "adapter_model.safetensors" if tuning == "lora" else "model.safetensors"
    name = f"{role}_{tuning}_{strategy}"
    expected = load_file(trained / f"{name}_whole" / file)
    for other in (f"{name}_outlines", f"{name}_outlines_resumed"):
        weights = load_file(trained / other / file)
        assert weights.keys() == expected.keys()
        assert all(torch.equal(weights[key], tensor) for key, tensor in expected.items()), other
    steps, expected_steps = (json.loads((trained / f"{name}_{of}.json").read_text()) for of in ("outlines", "whole"))
    for step, expected_step in zip(steps, expected_steps, strict=True):
        assert expected_step[f"{role}/grad_norm"] > 0
        assert {key: step[key] for key in step if not is_timing(key)} == {
            key: expected_step[key] for key in expected_step if not is_timing(key)
        }


@pytest.mark.slow
def test_a_rank_that_holds_an_outline_never_holds_the_model(trained: Path) -> None:
    """Nothing while it loads; then its shares, and one layer or what is in none."""
    held = json.loads((trained / "held.json").read_text())
    assert held["loaded"] < 0.02 * held["whole"]
    assert held["policy"] < 0.8 * held["whole"]
    assert held["with reference"] < 0.5 * held["whole"] + 0.8 * held["whole"]


@pytest.mark.slow
def test_what_several_processes_save_is_an_ordinary_directory(trained: Path, base: Path) -> None:
    """All weights load as they are; adapters load on top of the start, by PEFT or by transformers alone."""
    start = AutoModelForCausalLM.from_pretrained(base)
    with quiet():
        adapted = PeftModel.from_pretrained(start, trained / "solver_lora_fsdp")
        alone = AutoModelForCausalLM.from_pretrained(trained / "solver_lora_fsdp")
    AutoModelForCausalLM.from_pretrained(trained / "challenger_full_fsdp")
    ids = torch.arange(10)[None]
    with torch.no_grad():
        torch.testing.assert_close(adapted(ids).logits, alone(ids).logits, atol=1e-4, rtol=1e-4)
    assert not holds_adapters(trained / "challenger_full_fsdp")


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Begun by one process, ended by one and by two: the same questions, metrics and weights. Only rank 0 writes.

    Also when the second has no model but its share of what is trained. All inside a SLURM job of one task, where
    Lightning would refuse two devices.
    """
    small = (
        "iterations=1", "challenger.settings.steps=1", "solver.settings.steps=1", "curriculum.candidates=16",
        "curriculum.votes=3", "benchmarks.source.source.items=1", "response_tokens=32",
    )  # fmt: skip
    begun = small_run(tmp_path / "one", *small)
    monkeypatch.setattr(SelfPlay, "build_curriculum", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        begun.run()
    begun.close()
    monkeypatch.undo()
    job = {"JOB_ID": "7", "JOB_NAME": "rzero", "NTASKS": "1", "NTASKS_PER_NODE": "1", "PROCID": "0", "NODELIST": "here"}
    for name, value in job.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    first_draws = "engine._target_=tests.rzero.processes.two_processes.FirstDraws"
    ways = {"one": (), "two": ("trainer=ddp_cpu",), "outlines": ("trainer=fsdp_cpu", first_draws)}
    for name in ("two", "outlines"):
        shutil.copytree(tmp_path / "one", tmp_path / name)
    for name, more in ways.items():
        with quiet():
            going_on = small_run(tmp_path / name, *small, *more)
            assert going_on.stages.ledger.done("1/challenger")
            going_on.run()
            going_on.close()
    for name in ("two", "outlines"):
        require_the_same(tmp_path / name, tmp_path / "one")


def require_the_same(two: Path, one: Path) -> None:
    """Raises AssertionError unless two runs ended alike but for rounding."""
    assert (one / "questions" / "questions_1.jsonl").read_text() == (
        two / "questions" / "questions_1.jsonl"
    ).read_text()
    rows, expected_rows = (read_metrics(path / "metrics.jsonl") for path in (two, one))
    assert len(rows) == len(expected_rows)
    for row, expected in zip(rows, expected_rows, strict=True):
        same = {name: value for name, value in expected.items() if not is_timing(name)}
        assert {name: row[name] for name in same} == pytest.approx(same, abs=1e-5)
    weights, expected_weights = (
        load_file(path / "iteration_1" / "solver" / "model.safetensors") for path in (two, one)
    )
    for name, tensor in expected_weights.items():
        torch.testing.assert_close(weights[name], tensor, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("engine", "rank", "outline"),
    [(FirstDraws, 1, True), (FirstDraws, 0, False), (functools.partial(EmbeddedEngine, verify_sync=True), 1, False)],
)
def test_who_never_draws_loads_outlines(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: Any, rank: int, outline: bool
) -> None:
    """Of all policies, also the frozen one; where each process draws a share, each needs the whole model."""

    class Loaded(Exception):
        pass

    def evaluate(run: SelfPlay, iteration: int) -> str:
        raise Loaded([is_outline(run.weights.load(role, iteration).model) for role in ("challenger", "solver")])

    monkeypatch.setattr(SelfPlay, "evaluate", evaluate)
    launch = joined(Ranks(rank=rank, size=2))
    run = tiny_run(tmp_path / "run", base, make_engine=functools.partial(engine, **SETTINGS), launch=launch)
    with pytest.raises(Loaded, match=re.escape(str([outline] * 2))):
        run.run()
    run.close()


def test_a_process_that_fails_ends_the_run_with_its_reason() -> None:
    reason = r"another process of the run failed: rank 1 \(pid \d+ on .*\): ValueError: out of paper"
    worker = failing_worker
    with quiet(), pytest.raises(RuntimeError, match=reason), launch(size=2, worker=worker) as ranks:
        ranks.gather("anybody there?")


def test_shares_of_a_rollout_make_up_the_whole(make_policy) -> None:
    """Any number of parts, also more than rows, draws what one process draws."""
    engine = make_engine(Ranks())
    engine.sync(make_policy("qwen3"))
    prompts = [Prompt(user=f"{number}?") for number in (1, 22, 333)]
    sampling = Sampling(n=3, max_tokens=10, seed=4)
    expected = engine.generate(prompts, sampling)
    for parts in (2, 4, 11):
        shares = [engine.generate(prompts, sampling, share=(part, parts)) for part in range(parts)]
        for index, group in enumerate(expected):
            drawn = [completion for share in shares for completion in share[index].completions]
            assert [c.token_ids for c in drawn] == [c.token_ids for c in group.completions]


def test_rows_are_balanced_over_ranks() -> None:
    lengths = [5, 90, 7, 60, 8, 30, 9]
    ranks = balance(lengths, size=2)
    assert sorted(ranks) in ([0] * 3 + [1] * 4, [0] * 4 + [1] * 3)
    assert abs(sum(length if rank else -length for length, rank in zip(lengths, ranks, strict=True))) <= 40
    assert balance(lengths, size=1) == [0] * 7
    assert balance([3], size=3) == [0]


def test_one_process_calls_things_directly() -> None:
    ranks = Ranks()
    assert ranks.first
    assert ranks.shared(sorted) is sorted
    assert ranks.gather(3) == [3]


def test_a_trainer_of_the_cpu_asks_for_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a workstation with one GPU the second process of a CPU run used to ask for a second one."""
    asked: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", asked.append)
    with RankConfig(rank=0, size=1, rendezvous=str(tmp_path / "meet"), cuda=False).join() as ranks:
        assert ranks.gather("here") == ["here"]
    assert not asked
