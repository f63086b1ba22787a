"""Our side of the GRPO benchmark: the Solver's LightningModule on the embedded engine, as a run uses them."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch.profiler import ProfilerActivity, profile

from experiments.bench.grpo_worker import questions, rewards, wait_for_step
from experiments.bench.sides import Clock, answer
from rzero.engines.embedded import EmbeddedEngine
from rzero.grpo import PolicyLoss, SequenceMean, TruncatedImportanceSampling, group_advantages
from rzero.interfaces import Responses
from rzero.modules import GRPOSettings, Solver
from rzero.modules.base import Rewards
from rzero.modules.fit import fit
from rzero.modules.reference import reference_of
from rzero.policy import load_policy
from rzero.processes.cpu import set_matmul_precision
from rzero.types import Group, Json, LabelledQuestion, Prompt, RewardBreakdown, Sampling, Vote

_VOTE = Vote(label="1", count=1, divisor=1, counts=(("1", 1),), answers=("1",))


class _OnCommand(list[Any]):
    """Batches that are handed out when the parent asks for a step."""

    clock = Clock()
    command = ""

    def __getitem__(self, index: Any) -> Any:
        self.command = wait_for_step()
        self.clock.start()
        return super().__getitem__(index)


class _Watched(Solver):
    """A Solver that leaves its update's CPU seconds, its tokens and, on command, its profile in `figures`."""

    def __init__(self, *, steps: _OnCommand, warm_up_tokens: int, **solver: Any) -> None:
        super().__init__(**solver)
        self.steps, self.figures, self.warm_up_tokens = steps, dict[str, Any](), warm_up_tokens

    def draw(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Group]:
        short = self.steps.command == "warm up"
        return super().draw(prompts, replace(sampling, max_tokens=self.warm_up_tokens) if short else sampling)

    def learn(self, groups: Sequence[Group], rewards: Rewards) -> dict[str, float]:
        lengths = [(len(group.prompt_ids), len(c.token_ids)) for group in groups for c in group.completions]
        prompts = sum(len(group.prompt_ids) for group in groups)  # each goes through the model once: share_prompts
        tokens = sum(own for _, own in lengths)
        mean_sequence = sum(map(sum, lengths)) / len(lengths)
        self.figures = {"tokens": tokens, "model_tokens": prompts + tokens, "mean_sequence": mean_sequence}
        clock = Clock()
        if self.steps.command == "profile":
            with profile(activities=[ProfilerActivity.CPU]) as recorded:
                metrics = super().learn(groups, rewards)
            self.figures["profile"] = _shares(recorded)
        else:
            metrics = super().learn(groups, rewards)
        self.figures["update"] = clock.seconds()
        return metrics


def take_steps(settings: Json) -> None:
    """Take a step whenever the parent asks for one. settings: `WORK` of `experiments.bench.grpo`."""
    torch.set_num_threads(settings["threads"])
    set_matmul_precision(settings["matmul_precision"])
    policy = load_policy(
        settings["model"], dtype="float32", attn_implementation="sdpa", lora=settings["lora"],
        gradient_checkpointing=settings["checkpointing"],
    )  # fmt: skip
    batch = [
        LabelledQuestion(iteration=1, index=i, question=text, challenger_answer=None, vote=_VOTE, drop_reason=None)
        for i, text in enumerate(questions(settings["prompts"], kind=settings["questions"]))
    ]
    steps = _OnCommand([batch] * 1000)
    module = _Watched(
        steps=steps,
        warm_up_tokens=settings["warm_up_tokens"],
        ask=lambda text: Prompt(system=settings["system"], user=text),
        reward=_pay,
        policy=policy,
        reference=reference_of(policy),
        engine=EmbeddedEngine(**settings["engine"]),
        settings=GRPOSettings(
            steps=len(steps), prompts_per_step=settings["prompts"], samples_per_prompt=settings["samples"],
            updates_per_rollout=1, max_tokens_per_microbatch=settings["max_tokens_per_microbatch"],
            share_prompts=settings["share_prompts"], chunk_tokens=settings["chunk_tokens"], max_grad_norm=1.0,
            sampling={"temperature": 1.0, "max_tokens": settings["max_tokens"]}, advantage=group_advantages,
        ),
        loss=PolicyLoss(
            clip_low=settings["clip"], clip_high=settings["clip"], aggregation=SequenceMean(),
            kl_coefficient=settings["kl_coefficient"],
            mismatch=TruncatedImportanceSampling() if settings["corrected"] else None,
        ),
        optimizer=functools.partial(torch.optim.AdamW, lr=settings["learning_rate"]),
        batches=steps,
        seed=0,
    )  # fmt: skip

    def after_step(metrics: Mapping[str, float]) -> None:
        answer({"step": steps.clock.seconds(), **module.figures})

    trainer = functools.partial(
        pl.Trainer, accelerator="cpu", devices=1, max_epochs=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    fit(module, make_trainer=trainer, after_step=after_step, directory=Path("."))


def _pay(groups: Responses, labels: Sequence[str]) -> list[list[RewardBreakdown]]:
    return [[RewardBreakdown(total=total) for total in rewards(group)] for group in groups]


def _shares(recorded: Any, *, most: int = 10) -> dict[str, float]:
    """Operation -> share of the recorded self time, largest first."""
    events = sorted(recorded.key_averages(), key=lambda event: -event.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in events)
    return {event.key: round(event.self_cpu_time_total / total, 3) for event in events[:most]}
