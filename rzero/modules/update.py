"""The optimiser steps of one rollout, from groups and rewards to new weights and their metrics.

rows -> mini-batches -> this rank's micro-batches -> old and reference log-probs -> advantages -> loss, backward, clip,
step -> metrics.

Shapes: N rows of the rollout, M of a mini-batch, C completion positions, B rows of a micro-batch, T its positions, V
vocabulary.
"""
# ruff: noqa: N815 - a record's fields carry the shape suffix too

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from numpy.typing import NDArray
from torch import Tensor, nn

from rzero.grpo import PolicyLoss, kl_divergence, kl_penalised_rewards, mini_batch_totals
from rzero.interfaces import Progress, Watch, unwatched
from rzero.modes import in_mode
from rzero.modules.batching import (
    PADDING,
    MicroBatch,
    Row,
    completion_mask,
    micro_batches,
    mini_batches,
    plan,
    rows_by_rank,
    rows_of,
)
from rzero.modules.logprobs import completion_logprobs
from rzero.modules.metrics import add_up, update_metrics
from rzero.modules.reference import Reference
from rzero.modules.settings import GRPOSettings
from rzero.processes.memory import give_back_growth
from rzero.processes.ranks import Ranks
from rzero.sharding import exchange, whole
from rzero.types import Group, RewardBreakdown

HOLES_GIB = 0.05
"""By how much a CPU's heap may grow between two passes before its holes are looked for: models whose passes leave as
much take seconds for one, and looking takes milliseconds."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Scored:
    """A micro-batch with the log-probs (nats, float32) that precede the update; None where they are not needed."""

    part: MicroBatch
    old_logp_BT: Tensor | None
    ref_logp_BT: Tensor | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """The contribution of one or more micro-batches to a step's metrics.

    `sums` add up over micro-batches and ranks. `largest_difference`: by how much the log-probs of engine and trainer
    differ at most (nats).
    """

    sums: Mapping[str, float]
    largest_difference: float

    @classmethod
    def total(cls, shares: Sequence[Share]) -> Share:
        return cls(
            sums=add_up([share.sums for share in shares]),
            largest_difference=max(0.0, *(share.largest_difference for share in shares)),
        )


@dataclass(slots=True, kw_only=True)
class Tally:
    """Counts micro-batches of `total` for a `Progress`, and their positions, padding included, as tokens."""

    progress: Progress
    total: int
    done: int = 0
    tokens: int = 0

    def count(self, part: MicroBatch) -> None:
        self.done += 1
        self.tokens += part.input_ids_BT.numel()
        self.progress(self.done, self.total, self.tokens)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Update:
    """Learns from a rollout. Every rank holds one and calls it with the same groups and rewards.

    droppable_V: see `rzero.engines.vocabulary`; None where the rollout was drawn from the whole vocabulary.
    model: what learns. wrapper: what Lightning's strategy made of the module, with the switch for the exchange of
    gradients. backward: `LightningModule.manual_backward`. pad_id: any token of the model. watch: is told how many
    micro-batches are done.
    """

    model: nn.Module
    reference: Reference | None
    wrapper: nn.Module | None
    optimizer: LightningOptimizer
    backward: Callable[[Tensor], None]
    settings: GRPOSettings
    loss: PolicyLoss
    ranks: Ranks
    pad_id: int
    device: torch.device
    droppable_V: NDArray[np.bool_] | None = None
    watch: Watch = unwatched

    def __call__(self, groups: Sequence[Group], rewards: Sequence[Sequence[RewardBreakdown]]) -> dict[str, float]:
        """`updates_per_rollout` optimiser steps, at most one per group. Returns the mean of each metric over them."""
        rows = rows_of(groups, counts=self.loss.counts)
        totals_N = torch.tensor([reward.total for group in rewards for reward in group], dtype=torch.float64)
        group_N = torch.tensor([row.group for row in rows])
        updates = min(self.settings.updates_per_rollout, len(groups))
        penalised = self.loss.needs_reference and self.loss.kl_placement == "reward"
        # With one update per rollout the old policy is the current one and its log-probs need no pass of their own.
        old = updates > 1 or penalised
        idle = frozenset[int]()
        if self.settings.skip_zero_advantages:
            idle = frozenset((self.settings.advantage(totals_N, group_N) == 0).nonzero().flatten().tolist())
        parts = [self.cut(mini_batch, idle=idle) for mini_batch in mini_batches(rows, updates=updates)]
        steps = [self.score(part, old=old) for part in parts]
        if penalised:
            totals_N = totals_N - self.kl_penalty([scored for step in steps for scored in step], rows=len(rows))
        advantages_N = self.settings.advantage(totals_N, group_N).float().to(self.device)
        learned = Tally(progress=self.watch("learning, micro-batches"), total=sum(map(len, steps)))
        metrics = [self.step(step, advantages_N, learned=learned) for step in steps]
        means = add_up([{name: value / updates for name, value in step.items()} for step in metrics])
        tokens = sum(len(row.completion_ids) for row in rows if row.index not in idle)
        return {**means, "num_tokens_learned": float(tokens)}

    def cut(self, mini_batch: Sequence[Row], *, idle: Set[int] = frozenset()) -> list[MicroBatch]:
        """This rank's micro-batches of one optimiser step, as many as any rank has and at least one.

        idle: indices of rows that are left out. Weights are those of the whole mini-batch, so that the gradient is too.
        """
        mask_MC = completion_mask(mini_batch)
        weights_MC = self.loss.aggregation.weights(mask_MC, totals=mini_batch_totals(mask_MC))
        share_prompts = self.settings.share_prompts
        active = [row for row in mini_batch if row.index not in idle]
        plans = [
            plan(rows, max_tokens=self.settings.max_tokens_per_microbatch, share_prompts=share_prompts)
            for rows in rows_by_rank(active, size=self.ranks.size, share_prompts=share_prompts)
        ]
        return micro_batches(
            plans[self.ranks.rank],
            weights_of={row.index: weights_C for row, weights_C in zip(mini_batch, weights_MC, strict=True)},
            count=max(1, *map(len, plans)),
            share_prompts=share_prompts,
            pad_id=self.pad_id,
            device=self.device,
            droppable_V=self.droppable_V,
        )

    @torch.no_grad()
    def score(self, parts: Sequence[MicroBatch], *, old: bool) -> list[Scored]:
        """The micro-batches with the policy's log-probs if asked, and the reference's if the loss needs them."""
        old_logps: Sequence[Tensor | None] = [None] * len(parts)
        ref_logps = old_logps
        if old:
            old_logps = self.scores(self.model, parts, "as they were drawn")
        if self.reference is not None and self.loss.needs_reference:
            with self.reference.active() as model:
                ref_logps = self.scores(model, parts, "by the reference")
        return [
            Scored(part=part, old_logp_BT=old_logp_BT, ref_logp_BT=ref_logp_BT)
            for part, old_logp_BT, ref_logp_BT in zip(parts, old_logps, ref_logps, strict=True)
        ]

    def scores(self, model: nn.Module, parts: Sequence[MicroBatch], how: str) -> list[Tensor]:
        """A model's log-probs of each micro-batch; `how`: what progress calls that."""
        scored = Tally(progress=self.watch(f"scoring {how}, micro-batches"), total=len(parts))
        logps = []
        with in_mode(model, training=False):  # in the other, layers to be run again warn of a pass without gradients
            for part in parts:
                logps.append(self.logprobs(model, part)[0])
                scored.count(part)
                give_back_growth(gib=HOLES_GIB)
        return logps

    def kl_penalty(self, scored: Sequence[Scored], *, rows: int) -> Tensor:
        """Returns the cost in reward of each completion's KL (N,), float64; KL per token is that of the old policy."""
        penalty_N = torch.zeros(rows, dtype=torch.float64)
        for item in scored:
            assert item.old_logp_BT is not None
            assert item.ref_logp_BT is not None
            kl_BT = kl_divergence(
                item.old_logp_BT, item.ref_logp_BT, estimator=self.loss.kl_estimator, clamp=self.loss.kl_clamp
            )
            reward_B = kl_penalised_rewards(
                torch.zeros(len(kl_BT), dtype=torch.float64, device=kl_BT.device),
                kl_BT=kl_BT,
                mask_BT=item.part.completion_mask_BT,
                coefficient=self.loss.kl_coefficient,
            )
            real_B = item.part.index_B != PADDING
            penalty_N[item.part.index_B[real_B].cpu()] = -reward_B[real_B].cpu()
        return torch.stack(self.ranks.gather(penalty_N)).sum(dim=0)  # each row is one rank's, and 0 on all others

    def step(self, parts: Sequence[Scored], advantages_N: Tensor, *, learned: Tally) -> dict[str, float]:
        """One optimiser step over the micro-batches of a mini-batch, of all ranks, and its metrics."""
        shares = []
        for number, scored in enumerate(parts, start=1):
            with exchange(self.wrapper, now=number == len(parts)):
                shares.append(self.accumulate(scored, advantages_N))
            learned.count(scored.part)
            give_back_growth(gib=HOLES_GIB)
        total = Share.total(self.ranks.gather(Share.total(shares)))
        norm = float(whole(torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.max_grad_norm)))
        finite = math.isfinite(norm)
        if finite:
            self.optimizer.step()
        self.optimizer.zero_grad()
        return {
            **update_metrics(total.sums),
            "sampling/sampling_logp_difference/max": total.largest_difference,
            "grad_norm": norm if finite else 0.0,
            "skipped_steps": float(not finite),
            "learning_rate": float(self.optimizer.param_groups[0]["lr"]),
        }

    def accumulate(self, scored: Scored, advantages_N: Tensor) -> Share:
        """Adds the gradient of a micro-batch to that of the step and returns its share of the metrics."""
        part = scored.part
        logp_BT, entropy_BT = self.logprobs(self.model, part, entropy=True)
        assert entropy_BT is not None
        old_logp_BT = logp_BT.detach() if scored.old_logp_BT is None else scored.old_logp_BT
        out = self.loss(
            logp_BT=logp_BT,
            old_logp_BT=old_logp_BT,
            ref_logp_BT=scored.ref_logp_BT,
            advantages_B=torch.where(part.index_B == PADDING, 0.0, advantages_N[part.index_B]),
            weights_BT=part.weights_BT,
            mask_BT=part.mask_BT,
            entropy_BT=entropy_BT if self.loss.entropy_coefficient else entropy_BT.detach(),
            engine_logp_BT=part.engine_logp_BT,
        )
        give_back_growth(gib=HOLES_GIB)  # of the forward pass, which the backward pass would not fill
        # DDP and FSDP2 average gradients over ranks; the weights already are those of everybody's rows together
        self.backward(out.loss if self.ranks.size == 1 else out.loss * self.ranks.size)
        difference_S = (old_logp_BT - part.engine_logp_BT)[part.mask_BT].abs()
        values = {**out.metrics, "loss": out.loss.detach(), "weight": out.weight}
        return Share(
            sums={name: float(value) for name, value in values.items()},
            largest_difference=float(difference_S.max()) if difference_S.numel() else 0.0,
        )

    def logprobs(self, model: nn.Module, part: MicroBatch, *, entropy: bool = False) -> tuple[Tensor, Tensor | None]:
        return completion_logprobs(
            model,
            part.input_ids_BT,
            part.completion_mask_BT,
            temperature=self.settings.sampling["temperature"],
            chunk_tokens=self.settings.chunk_tokens,
            entropy=entropy,
            prompts=part.prompts,
            dropped_BV=part.dropped_BV,
        )
