"""A phase of either role on a tiny model, in one process or in several: what `test_distributed.py` compares."""

from __future__ import annotations

import functools
import gc
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from rzero.engines.across import ServedEngine, across
from rzero.engines.embedded import EmbeddedEngine
from rzero.gathering import model_parts, take_part
from rzero.grpo import ConstantLength, MicroBatchMean, PolicyLoss, SequenceMean, TokenMean, group_advantages
from rzero.interfaces import Responses
from rzero.modules import Challenger, GRPOModule, GRPOSettings, Solver, checkpoint
from rzero.modules.fit import fit
from rzero.modules.reference import reference_of
from rzero.policy import Policy, load_policy
from rzero.processes.launch import RankConfig
from rzero.processes.ranks import Ranks
from rzero.sharding import fill_from_first, shard
from rzero.types import Completion, Group, LabelledQuestion, Prompt, Question, RewardBreakdown, Sampling, Vote

LORA = {"rank": 2, "alpha": 8, "dropout": 0.0, "target_modules": ["q_proj", "down_proj"]}
SIZE = 2


CASES = (
    ("solver", "full", "ddp"),
    ("challenger", "lora", "ddp"),
    ("challenger", "full", "fsdp"),
    ("solver", "lora", "fsdp"),
)
"""(role, how it is fine-tuned, strategy): every strategy with every tuning, and each of these with both roles."""
ROUNDED = tuple((role, strategy) for role in ("challenger", "solver") for strategy in ("ddp", "fsdp"))
"""(role, strategy) of phases in bf16-mixed."""


def settings(**changes: Any) -> GRPOSettings:
    values: dict[str, Any] = {
        "steps": 2,
        "prompts_per_step": 3,  # x 3 samples in 2 mini-batches of unequal size, and unequal shares of ranks
        "samples_per_prompt": 3,
        "updates_per_rollout": 2,
        "max_tokens_per_microbatch": 70,
        "share_prompts": False,
        "chunk_tokens": 16,
        "max_grad_norm": 0.5,
        "sampling": {"temperature": 0.9, "max_tokens": 12},
        "advantage": group_advantages,
    }
    return GRPOSettings(**{**values, **changes})


def make_loss(**changes: Any) -> PolicyLoss:
    values: dict[str, Any] = {
        "clip_low": 0.2, "clip_high": 0.3, "aggregation": SequenceMean(), "kl_coefficient": 0.1,
    }  # fmt: skip
    return PolicyLoss(**{**values, **changes})


SERVED = (("solver", "full", "ddp"), ("challenger", "full", "fsdp"), ("solver", "lora", "fsdp"))
"""Cases with an engine that the first rank alone draws with, where the others hold whole models or outlines."""


SETTINGS: dict[str, Any] = {
    "max_rows": 64, "threads": 1, "compact_below": 0.85, "prefill_tokens": 4096, "first_capacity": 16,
    "decoder": "auto",
}  # fmt: skip


def make_engine(ranks: Ranks, *, device: str | None = None) -> Any:
    return across(EmbeddedEngine(**SETTINGS, verify_sync=True, device=device), ranks)


class FirstDraws:
    """An engine that the first of several processes draws with, as servers of vLLM are, but in its own process."""

    def __init__(self, **settings: Any) -> None:
        # no probe: a model that is split would be run on one rank
        self.engine = EmbeddedEngine(**{**settings, "verify_sync": False})
        self.generate, self.close = self.engine.generate, self.engine.close

    def sync(self, policy: Policy, *, ranks: Ranks = Ranks()) -> None:  # noqa: B008 - frozen
        if ranks.first:
            self.engine.sync(policy)
        else:
            take_part(model_parts(policy.model))

    def texts(self, prompts: Sequence[Prompt], sampling: Sampling, *, progress: Any = None) -> list[list[str]]:
        groups = self.generate(prompts, sampling, progress=progress)
        return [[completion.text for completion in group.completions] for group in groups]

    def rest(self) -> None:
        """Nothing."""

    def across(self, ranks: Ranks) -> ServedEngine:
        return ServedEngine(self, ranks)


AGGREGATIONS = {
    "solver_full": TokenMean(),
    "challenger_lora": ConstantLength(max_tokens=12),
    "challenger_full": MicroBatchMean(size=2),
    "solver_lora": TokenMean(),
}
"""Every way of averaging, over the cases: ranks with fewer tokens must not weigh more (prime-rl#2358, miles#3231)."""


class Ragged:
    """An engine whose completions end after 1 to 12 tokens; the first of each group counts as truncated."""

    def __init__(self, engine: Any) -> None:
        self.engine, self.sync, self.close = engine, engine.sync, engine.close

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling, *, progress: Any = None) -> list[Group]:
        groups = self.engine.generate(prompts, sampling, progress=progress)
        return [
            replace(group, completions=tuple(cut(c, place=(i, j)) for j, c in enumerate(group.completions)))
            for i, group in enumerate(groups)
        ]


def cut(completion: Completion, *, place: tuple[int, int]) -> Completion:
    tokens = 1 + (5 * place[0] + 7 * place[1]) % 12
    return replace(
        completion,
        token_ids=completion.token_ids[:tokens],
        logprobs=completion.logprobs[:tokens],
        finish_reason="length" if place[1] == 0 else "stop",
    )


def uneven(role: str, tuning: str, engine: Any) -> dict[str, Any]:
    """What makes rows, and so ranks, count differently."""
    loss = make_loss(aggregation=AGGREGATIONS[f"{role}_{tuning}"], truncated="mask")
    return {"engine": Ragged(engine), "loss": loss}


def question(index: int) -> LabelledQuestion:
    vote = Vote(label=str(index), count=1, divisor=1, counts=((str(index), 1),), answers=(str(index),))
    return LabelledQuestion(
        iteration=1, index=index, question=f"What is {index}?", challenger_answer=None, vote=vote, drop_reason=None
    )


def pay_solver(groups: Responses, labels: Sequence[str]) -> list[list[RewardBreakdown]]:
    return [
        [RewardBreakdown(total=sum(text.encode()) % 7 / 7 + int(label) / 100) for text in group]
        for group, label in zip(groups, labels, strict=True)
    ]


def pay_challenger(questions: Sequence[Question | None], votes: Sequence[Vote | None]) -> list[RewardBreakdown]:
    """Every reward depends on all questions of the step, as with the repetition penalty."""
    texts = [item.text if item else "" for item in questions]
    return [RewardBreakdown(total=sum(text > other for other in texts) / len(texts)) for text in texts]


def make_module(policy: Policy, *, role: str, ranks: Ranks, **changes: Any) -> GRPOModule:
    """A phase of two steps; `changes` replace arguments of the module."""
    grpo: dict[str, Any] = {
        "policy": policy,
        "engine": make_engine(ranks),
        "settings": settings(),
        "loss": make_loss(),
        # a large eps: without it Adam turns rounding errors of vanishing gradients into steps of full size
        "optimizer": functools.partial(torch.optim.AdamW, lr=1e-2, eps=1e-3),
        "seed": 5,
        "ranks": ranks,
        **changes,
    }
    if "reference" not in grpo:
        grpo["reference"] = reference_of(policy, ranks=ranks) if grpo["loss"].needs_reference else None
    if role == "solver":
        batches = [[question(3 * step + item) for item in range(3)] for step in range(2)]
        grpo = {"batches": batches, "reward": pay_solver, **grpo}
        return Solver(ask=lambda text: Prompt(user=text), **grpo)
    grpo = {"batches": range(2), "reward": pay_challenger, **grpo}
    return Challenger(
        request=Prompt(user="Pose a question."),
        parse=lambda text: Question(text=text, answer=None) if text else None,
        ask_solver=lambda questions, step: [None] * len(questions),
        **grpo,
    )


def make_trainer(
    *, accelerator: str = "cpu", devices: int = 1, strategy: Any = "auto", precision: Any = "32-true", **options: Any
) -> pl.Trainer:
    """As conf/trainer has it."""
    return pl.Trainer(
        accelerator=accelerator, devices=devices, strategy=strategy, precision=precision, max_epochs=1, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        use_distributed_sampler=False, plugins=[LightningEnvironment()], **options,
    )  # fmt: skip


def strategy_of(name: str, *, size: int) -> dict[str, Any]:
    if name == "one":
        return {}
    if name == "ddp":
        return {"strategy": DDPStrategy(), "devices": size}
    strategy = ModelParallelStrategy(data_parallel_size=size, tensor_parallel_size=1, save_distributed_checkpoint=False)
    return {"strategy": strategy, "devices": size}


def load(base: Path, *, tuning: str, **more: Any) -> Policy:
    lora = LORA if tuning == "lora" else None
    return load_policy(base, dtype="float32", attn_implementation="sdpa", lora=lora, **more)


def start(base: Path, *, role: str, tuning: str, **more: Any) -> Policy:
    """Where a phase begins: the Challenger with fresh adapters, the Solver with those of an earlier phase."""
    goes_on = tuning == "lora" and role == "solver"
    return load(base, tuning=tuning, **({"adapter": base.with_name("earlier")} if goes_on else {}), **more)


def phase(base: Path, *, role: str, tuning: str, ranks: Ranks, engine: Any, outlines: bool) -> GRPOModule:
    """outlines: ranks other than the first hold one."""
    policy = start(base, role=role, tuning=tuning, outline=outlines and not ranks.first)
    uneven_rows = uneven(role, tuning, engine or make_engine(ranks))
    return make_module(policy, role=role, ranks=ranks, settings=shared_in_two(role, ranks), **uneven_rows)


def near_float32(metrics: Mapping[str, float], expected: Mapping[str, float], *, role: str) -> None:
    """Raises AssertionError unless a step in bf16-mixed is what rounding leaves of the same step in float32.

    The rollout is the same, tokens and rewards included, because engines draw in the policy's own dtype.
    """
    drawn = ("reward", "reward_std", "num_tokens", "completions/mean_length", "learning_rate", "skipped_steps")
    for name in drawn:
        assert metrics[f"{role}/{name}"] == pytest.approx(expected[f"{role}/{name}"], abs=1e-9), name
    assert metrics[f"{role}/grad_norm"] == pytest.approx(expected[f"{role}/grad_norm"], rel=0.1)
    assert metrics[f"{role}/entropy"] == pytest.approx(expected[f"{role}/entropy"], rel=0.01)
    for name in ("loss", "policy_loss", "kl"):
        assert metrics[f"{role}/{name}"] == pytest.approx(expected[f"{role}/{name}"], abs=0.02), name
    difference = f"{role}/sampling/sampling_logp_difference/mean"
    assert expected[difference] < 1e-4 < metrics[difference] < 0.1, "the update was not in bf16, or far from float32"


def shared_in_two(role: str, ranks: Ranks) -> GRPOSettings:
    """Two processes let the Solver's completions share their prompts, one does not: the result is to be the same."""
    return settings(share_prompts=role == "solver" and ranks.size > 1)


def train(
    base: Path, target: Path, *,
    role: str, tuning: str, strategy: str, ranks: Ranks, engine: Any = None, outlines: bool = False,
) -> None:  # fmt: skip
    """Trains a phase and leaves the weights (`target`) and the metrics of its steps (`target.json`)."""
    module = phase(base, role=role, tuning=tuning, ranks=ranks, engine=engine, outlines=outlines)
    steps: list[dict[str, float]] = []
    paused = target.with_name(f"{target.name}_paused")

    def after_step(metrics: Mapping[str, float]) -> None:
        steps.append(dict(metrics))
        if len(steps) == 1:
            optimizer = module.optimizers(use_pl_optimizer=False)
            checkpoint.save(paused, model=module.model, optimizer=optimizer, write=ranks.first)

    trainer = functools.partial(make_trainer, **strategy_of(strategy, size=ranks.size))
    fit(module, make_trainer=trainer, after_step=after_step, directory=target.parent)
    module.policy.save(target, write=ranks.first)
    if ranks.first:
        target.with_suffix(".json").write_text(json.dumps(steps))


def go_on(
    base: Path, target: Path, *,
    role: str, tuning: str, strategy: str, ranks: Ranks, engine: Any = None, outlines: bool = False,
) -> None:  # fmt: skip
    """Trains what is left after the checkpoint that `train` made, and leaves the weights (`target`_resumed)."""
    paused = target.with_name(f"{target.name}_paused")
    module = phase(base, role=role, tuning=tuning, ranks=ranks, engine=engine, outlines=outlines)
    checkpoint.load_weights(paused, module.model)
    module.rollouts_done, module.restore_optimizer = 1, functools.partial(checkpoint.load_optimizer, paused)
    trainer = functools.partial(make_trainer, **strategy_of(strategy, size=ranks.size))
    fit(module, make_trainer=trainer, after_step=lambda metrics: None, directory=target.parent)
    module.policy.save(target.with_name(f"{target.name}_resumed"), write=ranks.first)


def train_rounded(base: Path, target: Path, *, role: str, strategy: str, precision: str, ranks: Ranks) -> None:
    """Trains all weights for a phase, one update per rollout, and leaves the metrics of its steps (`target`)."""
    policy = load(base, tuning="full")
    module = make_module(policy, role=role, ranks=ranks, settings=settings(updates_per_rollout=1))
    steps: list[dict[str, float]] = []
    trainer = functools.partial(make_trainer, precision=precision, **strategy_of(strategy, size=ranks.size))
    fit(module, make_trainer=trainer, after_step=lambda metrics: steps.append(dict(metrics)), directory=target.parent)
    if ranks.first:
        target.write_text(json.dumps(steps))


def train_served(base: Path, folder: Path, ranks: Ranks) -> None:
    """With an engine that the first rank alone draws with: whole models in every rank, and in the first alone."""
    for role, tuning, strategy in SERVED:
        case: dict[str, Any] = {"role": role, "tuning": tuning, "strategy": strategy, "ranks": ranks}
        for outlines, name in ((False, "whole"), (True, "outlines")):
            target = folder / f"{role}_{tuning}_{strategy}_{name}"
            train(base, target, **case, engine=across(FirstDraws(**SETTINGS), ranks), outlines=outlines)
        go_on(base, target, **case, engine=across(FirstDraws(**SETTINGS), ranks), outlines=True)


def measure(base: Path, folder: Path, ranks: Ranks) -> None:
    """Leaves the most bytes of tensors that the last rank held (`held.json`): while it loaded, and got its shares."""
    gc.collect()
    before, mesh, held = storages(), init_device_mesh("cpu", (ranks.size,)), [0]
    policy = load(base, tuning="full", outline=not ranks.first)
    reference = reference_of(policy, ranks=ranks)

    def fill(module: torch.nn.Module) -> None:
        held.append(sum(size for place, size in storages().items() if place not in before))
        fill_from_first(module, ranks=ranks, device=torch.device("cpu"))
        held.append(sum(size for place, size in storages().items() if place not in before))

    whole = policy.size()
    shard(policy.model, mesh, fill=fill)
    of_policy = max(held)
    reference.shard(mesh, fill=fill)
    if ranks.rank == ranks.size - 1:
        found = {"whole": whole, "loaded": held[1], "policy": of_policy, "with reference": max(held)}
        (folder / "held.json").write_text(json.dumps(found))


def storages() -> dict[int, int]:
    """Bytes of all tensors in host memory, by their addresses."""
    found = [item for item in gc.get_objects() if issubclass(type(item), torch.Tensor) and type(item) is not DTensor]
    there = [tensor.untyped_storage() for tensor in found if tensor.device.type == "cpu"]
    return {storage.data_ptr(): storage.nbytes() for storage in there}


def train_all(base: Path, folder: Path, ranks: Ranks) -> None:
    for role, tuning, strategy in CASES:
        target = folder / f"{role}_{tuning}_{strategy}"
        train(base, target, role=role, tuning=tuning, strategy=strategy, ranks=ranks)
        go_on(base, target, role=role, tuning=tuning, strategy=strategy, ranks=ranks)
    for role, strategy in ROUNDED:
        target = folder / f"{role}_{strategy}_bf16.json"
        train_rounded(base, target, role=role, strategy=strategy, precision="bf16-mixed", ranks=ranks)
    train_served(base, folder, ranks)
    measure(base, folder, ranks)


def training_worker(base: str, folder: str, rank_config: RankConfig) -> None:
    torch.set_num_threads(1)
    logging.disable()
    with rank_config.join() as ranks:
        train_all(Path(base), Path(folder), ranks)
