"""GRPO for either role as a LightningModule: roll out, pay, normalise, update, all inside one `training_step`.

Optimisation is manual because one rollout feeds several optimiser steps and because the rollout must come from the
weights of *this* step: a rollout in the data loader would be one policy version stale (Lightning prefetches).

Shapes: B sequences of a micro-batch, T positions, N sequences of an optimiser step's window.
"""

from __future__ import annotations

import random
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

from rzero.grpo import PolicyLoss, kl_divergence, kl_penalised_rewards, window_totals
from rzero.interfaces import RolloutEngine
from rzero.modules.batching import (
    NOT_A_ROW,
    MicroBatch,
    Row,
    balance,
    completion_mask,
    microbatches,
    plan,
    shared_tokens,
    windows,
)
from rzero.modules.choices import Refill
from rzero.modules.logprobs import completion_logprobs
from rzero.modules.metrics import add_up, rollout_metrics, speed, timed, update_metrics
from rzero.modules.reference import AdaptersOff, FrozenCopy
from rzero.modules.settings import GRPOSettings
from rzero.modules.shared_prompts import make_ready
from rzero.policy import Policy
from rzero.processes.ranks import Ranks
from rzero.roles import Role
from rzero.seeding import derive
from rzero.sharding import exchange, shard, whole
from rzero.types import Group, Prompt, RewardBreakdown

Rewards = list[list[RewardBreakdown]]


class GRPOModule(pl.LightningModule):
    """One phase of one role. Subclasses say what is asked (`prompts`) and how it is paid (`pay`).

    policy: the model that learns. reference: the weights at the start of the phase (None: no KL term).
    engine: samples from the policy. batches: what `prompts` and `pay` of each step are given; a step's index comes from
    the data loader. seed: of the phase; rollout i uses `derive(seed, "rollout", i)`. ranks: the processes that
    share the work; `engine` and `pay` then give every one of them the same groups and rewards.

    A phase that goes on from a checkpoint has `rollouts_done` and `restore_optimizer` set before it is fitted.
    """

    stage: Role

    def __init__(
        self,
        *,
        policy: Policy,
        reference: FrozenCopy | AdaptersOff | None,
        engine: RolloutEngine,
        settings: GRPOSettings,
        loss: PolicyLoss,
        optimizer: Callable[..., torch.optim.Optimizer],
        batches: Sequence[Any],
        seed: int,
        ranks: Ranks = Ranks(),  # noqa: B008 - frozen
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model = policy.model
        self.policy, self.engine, self.settings, self.loss = policy, engine, settings, loss
        self.reference, self.ranks = reference, ranks
        self._make_optimizer, self.batches, self.seed = optimizer, batches, seed
        self.rollouts_done = 0
        self.restore_optimizer: Callable[[torch.optim.Optimizer], None] | None = None
        self.step_metrics: dict[str, float] = {}
        if settings.share_prompts:
            for model in [self.model, *([reference.model] if reference else [])]:
                make_ready(model)
        loss.check_sampling(settings.rollout_sampling(seed=0))
        if loss.needs_reference and reference is None:
            raise ValueError("loss.kl_coefficient is positive, so the phase needs a reference policy")

    @abstractmethod
    def prompts(self, batch: Any) -> Sequence[Prompt]:
        """The requests of one rollout: one per item of a batch that is a list, else `settings.prompts_per_step`."""

    @abstractmethod
    def pay(self, groups: Sequence[Group], batch: Any) -> Rewards:
        """One reward per completion, group by group."""

    def configure_model(self) -> None:
        """Splits policy and reference over the ranks when the strategy is FSDP2's.

        The engine is synced first: afterwards class and tensors of the model are no longer those of the architecture.
        """
        if self.device_mesh is None or isinstance(self.model, FSDPModule):
            return
        self.engine.sync(self.policy)
        shard(self.model, self.device_mesh["data_parallel"])
        if isinstance(self.reference, FrozenCopy):
            shard(self.reference.model, self.device_mesh["data_parallel"])

    def on_fit_start(self) -> None:
        if isinstance(self.reference, FrozenCopy) and not isinstance(self.reference.model, FSDPModule):
            self.reference.model.to(self.device)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        optimizer = self._make_optimizer([p for p in self.model.parameters() if p.requires_grad])
        if self.restore_optimizer is not None:
            self.restore_optimizer(optimizer)
        return optimizer

    def training_step(self, step: Any, batch_index: int) -> None:
        """One rollout and its `updates_per_rollout` optimiser steps; metrics are left in `step_metrics`."""
        batch = self.batches[int(step)]
        # only models with dropout look at this generator; a resumed phase then drops what it would have dropped
        torch.manual_seed(derive(self.seed, "dropout", self.rollouts_done, self.ranks.rank))
        metrics: dict[str, float] = {}
        with timed(metrics, "step"):
            with timed(metrics, "rollout"):
                self.engine.sync(self.policy)
                groups = self._draw(self.prompts(batch), "rollout", self.rollouts_done)
            with timed(metrics, "reward"):
                rewards = self._paid(groups, batch)
            if self.settings.refill is not None:
                groups, rewards = self._refilled(groups, rewards, batch, refill=self.settings.refill, metrics=metrics)
            metrics.update(rollout_metrics(groups, rewards))
            with timed(metrics, "update"):
                metrics.update(self._learn(groups, rewards))
        metrics.update(speed(metrics, parameters=sum(p.numel() for p in self.model.parameters())))
        self.rollouts_done += 1
        self.step_metrics = {f"{self.stage}/{name}": value for name, value in metrics.items()}

    # ------------------------------------------------------------------------------------------------------ rollout

    def _draw(self, prompts: Sequence[Prompt], *names: str | int) -> list[Group]:
        return self.engine.generate(prompts, self.settings.rollout_sampling(seed=derive(self.seed, *names)))

    def _paid(self, groups: Sequence[Group], batch: Any) -> Rewards:
        rewards = self.pay(groups, batch)
        if self.settings.overlong is None:
            return rewards
        return self.settings.overlong(groups, rewards, max_tokens=self.settings.sampling["max_tokens"])

    def _refilled(
        self, groups: Sequence[Group], rewards: Rewards, batch: Any, *, refill: Refill, metrics: dict[str, float]
    ) -> tuple[list[Group], Rewards]:
        """The rollout with groups that teach nothing replaced, as far as the bound on extra rollouts allows."""
        groups, rewards, replaced = list(groups), list(rewards), 0
        spare = self._spare(batch)
        for extra in range(refill.max_rounds):
            dull = refill.dull(rewards)
            others = spare[len(dull) * extra : len(dull) * (extra + 1)] if isinstance(spare, list) else spare
            if not dull or others == []:
                break
            with timed(metrics, "rollout"):
                drawn = self._draw(self.prompts(others)[: len(dull)], "refill", self.rollouts_done, extra)
            with timed(metrics, "reward"):
                paid = self._paid(drawn, others)
            teaching = sorted(set(range(len(drawn))) - set(refill.dull(paid)))
            for place, index in zip(dull, teaching, strict=False):
                groups[place], rewards[place] = drawn[index], paid[index]
            replaced += len(teaching)
        metrics["refill/replaced_groups"] = float(replaced)
        return groups, rewards

    def _spare(self, batch: Any) -> Any:
        """Items of the phase that are not in this batch, in random order; a batch that is no list stands for itself."""
        if not isinstance(batch, list):
            return batch
        pool = {id(item): item for other in self.batches for item in other}
        others = [item for key, item in pool.items() if key not in {id(item) for item in batch}]
        return random.Random(derive(self.seed, "spare", self.rollouts_done)).sample(others, len(others))

    # ------------------------------------------------------------------------------------------------------- update

    def _learn(self, groups: Sequence[Group], rewards: Sequence[Sequence[RewardBreakdown]]) -> dict[str, float]:
        totals_N = torch.tensor([reward.total for group in rewards for reward in group], dtype=torch.float64)
        group_N = torch.tensor([index for index, group in enumerate(groups) for _ in group.completions])
        rows = [
            self._row(group, index, completion)
            for index, group in enumerate(groups)
            for completion in group.completions
        ]
        updates = min(self.settings.updates_per_rollout, len(groups))
        penalised = self.loss.needs_reference and self.loss.kl_placement == "reward"
        # With one update per rollout the old policy is the current one and its log-probs need no pass of their own.
        prepared = [
            self._prepare(rows, window, old=updates > 1 or penalised) for window in windows(rows, updates=updates)
        ]
        if penalised:
            totals_N = totals_N - self._kl_penalty([part for parts in prepared for part in parts], rows=len(rows))
        advantages_N = self.settings.advantage(totals_N, group_N)
        return add_up(
            [
                {name: value / updates for name, value in self._update(_with_advantages(parts, advantages_N)).items()}
                for parts in prepared
            ]
        )

    def _row(self, group: Group, index: int, completion: Any) -> Row:
        return Row(
            prompt_ids=group.prompt_ids,
            completion_ids=completion.token_ids,
            group=index,
            counted=self.loss.truncated == "keep" or completion.finish_reason == "stop",
            engine_logp=torch.tensor(completion.logprobs),
        )

    def _prepare(self, rows: Sequence[Row], window: Sequence[int], *, old: bool) -> list[MicroBatch]:
        """This rank's micro-batches of one window, with old and reference log-probs where they are needed.

        Weights are those of the whole window, and `rows` of a micro-batch are numbers in the whole rollout.
        """
        mask_NC = completion_mask([rows[index] for index in window])
        weights_NC = self.loss.aggregation.weights(mask_NC, totals=window_totals(mask_NC))
        hands = self._hands([rows[index] for index in window])
        hand = hands[self.ranks.rank]
        cut: dict[str, Any] = {
            "max_tokens": self.settings.max_tokens_per_microbatch,
            "share_prompts": self.settings.share_prompts,
        }
        parts = microbatches(
            [rows[window[place]] for place in hand],
            weights_NC=weights_NC[hand],
            pad_id=self.policy.tokenizer.pad_token_id,
            # gradients are exchanged, and split parameters gathered, once per micro-batch: all ranks need equally many
            count=max(len(plan([rows[window[place]] for place in other], **cut)) for other in hands),
            device=self.device,
            **cut,
        )
        parts = [
            replace(part, rows=tuple(row if row == NOT_A_ROW else window[hand[row]] for row in part.rows))
            for part in parts
        ]
        with torch.no_grad():
            if old:
                parts = [replace(part, old_logp_BT=self._logprobs(self.model, part)[0]) for part in parts]
            if self.reference is not None and self.loss.needs_reference:
                with self.reference.active() as model:
                    parts = [replace(part, ref_logp_BT=self._logprobs(model, part)[0]) for part in parts]
        return parts

    def _hands(self, rows: Sequence[Row]) -> list[list[int]]:
        """Indices of the rows that each rank learns from: whole groups where they share their prompt."""
        if not self.settings.share_prompts:
            return balance([row.length for row in rows], size=self.ranks.size)
        sizes = shared_tokens(rows, key=lambda row: row.group)
        groups = list(sizes)
        dealt = [{groups[place] for place in hand} for hand in balance(list(sizes.values()), size=self.ranks.size)]
        return [[index for index, row in enumerate(rows) if row.group in mine] for mine in dealt]

    def _kl_penalty(self, parts: Sequence[MicroBatch], *, rows: int) -> Tensor:
        """What the KL of each completion costs in reward (rows,), float64; KL per token is that of the old policy."""
        mine: dict[int, float] = {}
        for part in parts:
            assert part.old_logp_BT is not None
            assert part.ref_logp_BT is not None
            kl_BT = kl_divergence(
                part.old_logp_BT, part.ref_logp_BT, estimator=self.loss.kl_estimator, clamp=self.loss.kl_clamp
            )
            reward_B = kl_penalised_rewards(
                torch.zeros(len(part.rows), dtype=torch.float64, device=kl_BT.device),
                kl_BT=kl_BT,
                mask_BT=part.completion_mask_BT,
                coefficient=self.loss.kl_coefficient,
            )
            mine |= dict(zip(part.rows, (-reward_B).tolist(), strict=True))
        everybody = {row: value for part in self.ranks.gather(mine) for row, value in part.items()}
        return torch.tensor([everybody[row] for row in range(rows)], dtype=torch.float64)

    def _logprobs(self, model: Any, part: MicroBatch, *, entropy: bool = False) -> tuple[Tensor, Tensor | None]:
        return completion_logprobs(
            model,
            input_ids_BT=part.input_ids_BT,
            attention_mask_BT=None,  # right padding after causal attention cannot be seen by any scored token
            completion_mask_BT=part.completion_mask_BT,
            temperature=self.settings.sampling["temperature"],
            chunk_tokens=self.settings.chunk_tokens,
            entropy=entropy,
            prompts=part.prompts,
        )

    def _update(self, parts: Sequence[MicroBatch]) -> dict[str, float]:
        """One optimiser step over all micro-batches of a window, of all ranks."""
        optimizer = self.optimizers()
        shares, largest = [], 0.0
        for number, part in enumerate(parts, start=1):
            with exchange(self.model, wrapper=self.trainer.strategy.model, now=number == len(parts)):
                share, difference = self._accumulate(part)
            shares.append(share)
            largest = max(largest, difference)
        everybody = self.ranks.gather((add_up(shares), largest))
        sums = add_up([share for share, _ in everybody])
        norm = float(whole(torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.max_grad_norm)))
        finite = norm == norm and abs(norm) != float("inf")
        if finite:
            optimizer.step()  # type: ignore[union-attr]
        optimizer.zero_grad()  # type: ignore[union-attr]
        weight = sums.pop("weight")
        return {
            **update_metrics(sums, weight=weight),
            "sampling/sampling_logp_difference/max": max(difference for _, difference in everybody),
            "grad_norm": norm if finite else 0.0,
            "skipped_steps": float(not finite),
            "learning_rate": float(optimizer.param_groups[0]["lr"]),  # type: ignore[union-attr]
        }

    def _accumulate(self, part: MicroBatch) -> tuple[dict[str, float], float]:
        """Adds a micro-batch's gradient; its sums, and by how much engine and trainer differ at most (nats)."""
        logp_BT, entropy_BT = self._logprobs(self.model, part, entropy=True)
        old_logp_BT = logp_BT.detach() if part.old_logp_BT is None else part.old_logp_BT
        out = self.loss(
            logp_BT=logp_BT,
            old_logp_BT=old_logp_BT,
            ref_logp_BT=part.ref_logp_BT,
            advantages_B=part.advantages_B,
            weights_BT=part.weights_BT,
            mask_BT=part.mask_BT,
            entropy_BT=entropy_BT if self.loss.entropy_coefficient else entropy_BT.detach(),  # type: ignore[union-attr]
            engine_logp_BT=part.engine_logp_BT,
        )
        # DDP and FSDP2 average gradients over ranks; the weights already are those of everybody's rows together
        self.manual_backward(out.loss if self.ranks.size == 1 else out.loss * self.ranks.size)
        difference = 0.0
        if part.engine_logp_BT is not None and bool(part.mask_BT.any()):
            difference = float((old_logp_BT - part.engine_logp_BT)[part.mask_BT].abs().max())
        return {
            name: float(value)
            for name, value in {**out.metrics, "loss": out.loss.detach(), "weight": out.weight}.items()
        }, difference


def _with_advantages(parts: Sequence[MicroBatch], advantages_N: Tensor) -> list[MicroBatch]:
    """The micro-batches with the advantage of each row; 0 for rows that only fill up."""
    padded_N = torch.cat([advantages_N.float(), torch.zeros(1)])  # NOT_A_ROW is -1: the last
    return [replace(part, advantages_B=padded_N[list(part.rows)].to(part.advantages_B.device)) for part in parts]
