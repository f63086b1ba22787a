"""GRPO for either role as a LightningModule: roll out, pay, normalise, update, all inside one `training_step`.

Optimisation is manual because one rollout feeds several optimiser steps and because the rollout must come from the
weights of *this* step: a rollout in the data loader would be one policy version stale (Lightning prefetches).

Shapes: B sequences of a micro-batch, T positions, N sequences of an optimiser step's window.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from rzero.batching import MicroBatch, Row, completion_mask, microbatches, windows
from rzero.grpo import PolicyLoss, reward_statistics, window_totals
from rzero.interfaces import RolloutEngine
from rzero.logprobs import completion_logprobs
from rzero.policy import Policy
from rzero.seeding import derive
from rzero.types import Group, Prompt, RewardBreakdown, Sampling


@dataclass(frozen=True, slots=True, kw_only=True)
class GRPOSettings:
    """What both roles share, in the words of the config.

    prompts_per_step: groups per rollout. samples_per_prompt: completions per group (the group size).
    updates_per_rollout: optimiser steps per rollout. max_tokens_per_microbatch: padded tokens in memory at once.
    steps: rollouts in a phase. max_grad_norm: gradient clipping by norm. sampling: temperature, top_p, top_k,
    max_tokens of the rollouts. chunk_tokens: rows of logits that exist at once. advantage: from rewards (B,) and group
    numbers (B,) to advantages (B,).
    """

    steps: int
    prompts_per_step: int
    samples_per_prompt: int
    updates_per_rollout: int
    max_tokens_per_microbatch: int
    chunk_tokens: int
    max_grad_norm: float
    sampling: Mapping[str, Any]
    advantage: Callable[[Tensor, Tensor], Tensor]

    def __post_init__(self) -> None:
        if self.samples_per_prompt < 2:
            raise ValueError(
                f"samples_per_prompt (the group size) must be at least 2, got {self.samples_per_prompt}: "
                "GRPO compares the completions of one prompt with one another"
            )
        if self.steps < 0:
            raise ValueError(f"steps must be 0 (leave the role as it is) or positive, got {self.steps}")
        if not 1 <= self.updates_per_rollout <= self.prompts_per_step:
            raise ValueError(
                f"updates_per_rollout must lie in 1..prompts_per_step ({self.prompts_per_step}), "
                f"got {self.updates_per_rollout}"
            )
        self.rollout_sampling(seed=0)

    def rollout_sampling(self, *, seed: int) -> Sampling:
        return Sampling(n=self.samples_per_prompt, seed=seed, **self.sampling)


class GRPOModule(pl.LightningModule):
    """One phase of one role. Subclasses say what is asked (`prompts`) and how it is paid (`pay`).

    policy: the model that learns. reference: the frozen weights at the start of the phase (None: no KL term).
    engine: samples from the policy. batches: what `prompts` and `pay` of each step are given; a step's index comes from
    the data loader. seed: of the phase; rollout i uses `derive(seed, "rollout", i)`.
    """

    stage: str

    def __init__(
        self,
        *,
        policy: Policy,
        reference: Policy | None,
        engine: RolloutEngine,
        settings: GRPOSettings,
        loss: PolicyLoss,
        optimizer: Callable[..., torch.optim.Optimizer],
        batches: Sequence[Any],
        seed: int,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model = policy.model
        self.policy, self.engine, self.settings, self.loss = policy, engine, settings, loss
        self._reference = [reference] if reference else []  # a list hides it from Module: it is no part of the state
        self._make_optimizer, self.batches, self.seed = optimizer, batches, seed
        self.rollouts_done = 0
        self.step_metrics: dict[str, float] = {}
        loss.check_sampling(settings.rollout_sampling(seed=0))
        if loss.needs_reference and reference is None:
            raise ValueError("loss.kl_coefficient is positive, so the phase needs a reference policy")

    @abstractmethod
    def prompts(self, batch: Any) -> Sequence[Prompt]:
        """The requests of one rollout: `settings.prompts_per_step` of them, or fewer at the end of the data."""

    @abstractmethod
    def pay(self, groups: Sequence[Group], batch: Any) -> list[list[RewardBreakdown]]:
        """One reward per completion, group by group."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self._make_optimizer([p for p in self.model.parameters() if p.requires_grad])

    def training_step(self, step: Any, batch_index: int) -> None:
        """One rollout and its `updates_per_rollout` optimiser steps; metrics are left in `step_metrics`."""
        batch = self.batches[int(step)]
        metrics: dict[str, float] = {}
        with _timed(metrics, "rollout"):
            self.engine.sync(self.policy)
            seed = derive(self.seed, "rollout", self.rollouts_done)
            groups = self.engine.generate(self.prompts(batch), self.settings.rollout_sampling(seed=seed))
        with _timed(metrics, "reward"):
            rewards = self.pay(groups, batch)
        metrics.update(rollout_metrics(groups, rewards))
        with _timed(metrics, "update"):
            metrics.update(self._learn(groups, rewards))
        self.rollouts_done += 1
        self.step_metrics = {f"{self.stage}/{name}": value for name, value in metrics.items()}

    # ------------------------------------------------------------------------------------------------------- update

    def _learn(self, groups: Sequence[Group], rewards: Sequence[Sequence[RewardBreakdown]]) -> dict[str, float]:
        totals = torch.tensor([reward.total for group in rewards for reward in group], dtype=torch.float64)
        group_B = torch.tensor([index for index, group in enumerate(groups) for _ in group.completions])
        advantages = self.settings.advantage(totals, group_B).tolist()
        completions = [(group, completion) for group in groups for completion in group.completions]
        rows = [
            Row(
                prompt_ids=group.prompt_ids,
                completion_ids=completion.token_ids,
                group=int(index),
                advantage=advantage,
                counted=self.loss.truncated == "keep" or completion.finish_reason == "stop",
                engine_logp=torch.tensor(completion.logprobs),
            )
            for (group, completion), advantage, index in zip(completions, advantages, group_B, strict=True)
        ]
        updates = min(self.settings.updates_per_rollout, len(groups))
        # With one update per rollout the old policy is the current one and its log-probs need no pass of their own.
        prepared = [
            self._prepare([rows[index] for index in window], old=updates > 1)
            for window in windows(rows, updates=updates)
        ]
        sums: dict[str, float] = {}
        for parts in prepared:
            for name, value in self._update(parts).items():
                sums[name] = sums.get(name, 0.0) + value / updates
        return sums

    def _prepare(self, rows: Sequence[Row], *, old: bool) -> list[MicroBatch]:
        """Micro-batches of one window, with old and reference log-probs where they are needed."""
        mask_NT = completion_mask(rows)
        weights_NT = self.loss.aggregation.weights(mask_NT, totals=window_totals(mask_NT))
        parts = microbatches(
            rows,
            weights_NC=weights_NT,
            max_tokens=self.settings.max_tokens_per_microbatch,
            pad_id=self.policy.tokenizer.pad_token_id,
            device=self.device,
        )
        with torch.no_grad():
            if old:
                parts = [replace(part, old_logp_BT=self._logprobs(self.model, part)[0]) for part in parts]
            if self._reference and self.loss.needs_reference:
                model = self._reference[0].model
                parts = [replace(part, ref_logp_BT=self._logprobs(model, part)[0]) for part in parts]
        return parts

    def _logprobs(self, model: Any, part: MicroBatch, *, entropy: bool = False) -> tuple[Tensor, Tensor | None]:
        return completion_logprobs(
            model,
            input_ids_BT=part.input_ids_BT,
            attention_mask_BT=None,  # right padding after causal attention cannot be seen by any scored token
            completion_mask_BT=part.completion_mask_BT,
            temperature=self.settings.sampling["temperature"],
            chunk_tokens=self.settings.chunk_tokens,
            entropy=entropy,
        )

    def _update(self, parts: Sequence[MicroBatch]) -> dict[str, float]:
        """One optimiser step over all micro-batches of a window."""
        optimizer = self.optimizers()
        sums: dict[str, float] = {}
        weight = 0.0
        for part in parts:
            logp_BT, entropy_BT = self._logprobs(self.model, part, entropy=True)
            out = self.loss(
                logp_BT=logp_BT,
                old_logp_BT=logp_BT.detach() if part.old_logp_BT is None else part.old_logp_BT,
                ref_logp_BT=part.ref_logp_BT,
                advantages_B=part.advantages_B,
                weights_BT=part.weights_BT,
                mask_BT=part.mask_BT,
                entropy_BT=entropy_BT if self.loss.entropy_coefficient else entropy_BT.detach(),  # type: ignore[union-attr]
                engine_logp_BT=part.engine_logp_BT,
            )
            self.manual_backward(out.loss)
            weight += float(out.weight)
            for name, value in {**out.metrics, "loss": out.loss.detach()}.items():
                sums[name] = sums.get(name, 0.0) + float(value)
        norm = float(torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.max_grad_norm))
        finite = norm == norm and abs(norm) != float("inf")
        if finite:
            optimizer.step()  # type: ignore[union-attr]
        optimizer.zero_grad()  # type: ignore[union-attr]
        means = {
            name: value if name in ("loss", "policy_loss") else value / (weight or 1.0) for name, value in sums.items()
        }
        return {
            **means,
            "grad_norm": norm if finite else 0.0,
            "skipped_steps": float(not finite),
            "learning_rate": float(optimizer.param_groups[0]["lr"]),  # type: ignore[union-attr]
        }


def rollout_metrics(groups: Sequence[Group], rewards: Sequence[Sequence[RewardBreakdown]]) -> dict[str, float]:
    """What a rollout looked like, under the field's names."""
    totals = torch.tensor([reward.total for group in rewards for reward in group], dtype=torch.float64)
    group_B = torch.tensor([index for index, group in enumerate(groups) for _ in group.completions])
    statistics = reward_statistics(totals, group_B)
    lengths = [len(c.token_ids) for group in groups for c in group.completions]
    clipped = [c.finish_reason == "length" for group in groups for c in group.completions]
    metrics = {
        "reward": statistics.mean,
        "reward_std": statistics.std,
        "group_reward_std": statistics.group_std,
        "frac_reward_zero_std": statistics.equal_fraction,
        "non_finite_rewards": float(statistics.non_finite),
        "completions/mean_length": sum(lengths) / len(lengths),
        "completions/max_length": float(max(lengths)),
        "completions/clipped_ratio": sum(clipped) / len(clipped),
        "num_tokens": float(sum(lengths)),
    }
    flat = [reward for group in rewards for reward in group]
    for name in sorted({name for reward in flat for name in reward.parts}):
        values = [reward.parts[name] for reward in flat if name in reward.parts]
        metrics[f"rewards/{name}/mean"] = sum(values) / len(values)
    return metrics


@contextmanager
def _timed(metrics: dict[str, float], name: str) -> Iterator[None]:
    started = time.monotonic()
    yield
    metrics[f"timing_s/{name}"] = time.monotonic() - started
