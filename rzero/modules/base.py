"""GRPO for either role as a LightningModule: roll out, pay, refill, learn, all inside one `training_step`.

Optimisation is manual because one rollout feeds several optimiser steps and because the rollout must come from the
weights of *this* step: a rollout in the data loader would be one policy version stale (Lightning prefetches).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Generic, TypeVar

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from numpy.typing import NDArray
from torch.distributed.fsdp import FSDPModule

from rzero.engines.vocabulary import droppable_tokens
from rzero.grpo import PolicyLoss
from rzero.interfaces import RestingEngine, RolloutEngine, Watch, unwatched
from rzero.modules.choices import Refill
from rzero.modules.metrics import rollout_metrics, speed, timed
from rzero.modules.recompute import keep_inputs_alone
from rzero.modules.reference import Fill, FrozenCopy, Reference
from rzero.modules.settings import GRPOSettings
from rzero.modules.shared_prompts import make_ready
from rzero.modules.update import Update
from rzero.modules.warmup import warm_up
from rzero.policy import Policy
from rzero.processes.memory import give_back
from rzero.processes.ranks import Ranks
from rzero.roles import Role
from rzero.seeding import derive
from rzero.sharding import fill_from_first, is_outline, shard
from rzero.types import Group, Prompt, RewardBreakdown, Sampling

Batch = TypeVar("Batch")
Rewards = list[list[RewardBreakdown]]


class GRPOModule(pl.LightningModule, Generic[Batch]):
    """One phase of one role. Subclasses say what is asked (`prompts`, `spare`) and how it is paid (`pay`).

    policy: the model that learns; ranks other than the first may hold its outline. reference: the weights at the
    start of the phase (None: no KL term). engine: samples from the policy. batches: what `prompts` and
    `pay` of each step are given; a step's index comes from the data loader. seed: of the phase; rollout i uses
    `derive(seed, "rollout", i)`. ranks: the processes that share the work; `engine` and `pay` then give every one of
    them the same groups and rewards. watch: is told of each part of a step.

    A phase that goes on from a checkpoint has `rollouts_done` and `restore_optimizer` set before it is fitted.
    """

    stage: Role

    def __init__(
        self,
        *,
        policy: Policy,
        reference: Reference | None,
        engine: RolloutEngine,
        settings: GRPOSettings,
        loss: PolicyLoss,
        optimizer: Callable[..., torch.optim.Optimizer],
        batches: Sequence[Batch],
        seed: int,
        ranks: Ranks = Ranks(),  # noqa: B008 - frozen
        watch: Watch = unwatched,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model = policy.model
        self.policy, self.engine, self.settings, self.loss = policy, engine, settings, loss
        self.reference, self.ranks, self.watch = reference, ranks, watch
        self._make_optimizer, self.batches, self.seed = optimizer, batches, seed
        self.rollouts_done = 0
        self.restore_optimizer: Callable[[torch.optim.Optimizer], None] | None = None
        self.step_metrics: dict[str, float] = {}
        self.droppable_V: NDArray[np.bool_] | None = None
        if settings.rollout_sampling(seed=0).vocabulary_dropout:
            self.droppable_V = droppable_tokens(
                policy.tokenizer, vocabulary=policy.vocabulary(), eos_ids=policy.eos_ids()
            )
        if settings.share_prompts:
            for model in [self.model, *([reference.model] if reference else [])]:
                make_ready(model)
        settings.check(loss)
        if loss.needs_reference and reference is None:
            raise ValueError("loss.kl_coefficient is positive, so the phase needs a reference policy")

    @abstractmethod
    def prompts(self, batch: Batch) -> Sequence[Prompt]:
        """The requests of one rollout."""

    def draw(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Group]:
        """The groups of a rollout, or of a part of it, which `pay` is called with next."""
        return self.engine.generate(prompts, sampling, progress=self.watch("drawing, responses"))

    @abstractmethod
    def pay(self, groups: Sequence[Group], batch: Batch) -> Rewards:
        """One reward per completion, group by group."""

    @abstractmethod
    def spare(self, batch: Batch, *, start: int, count: int) -> Batch:
        """A batch to ask beside `batch` in the same step, after `start` requests of its kind.

        It has at least `count` requests, or as many as there are left.
        """

    def configure_model(self) -> None:
        """Gives policy and reference their weights on ranks that hold outlines, and splits them under FSDP2.

        The engine is synced first: afterwards class and tensors of the model are no longer those of the architecture.
        """
        if isinstance(self.model, FSDPModule):
            return
        fill = self._fill()
        if self.device_mesh is not None:
            self.engine.sync(self.policy)
            shard(self.model, self.device_mesh["data_parallel"], fill=fill)
            if self.reference is not None:
                self.reference.shard(self.device_mesh["data_parallel"], fill=fill)
        elif fill is not None:
            fill(self.model)
            if isinstance(self.reference, FrozenCopy):
                fill(self.reference.model)

    def _fill(self) -> Fill | None:
        """What gives a module the first rank's weights; None where every rank has them."""
        if not any(self.ranks.gather(is_outline(self.model))):
            return None
        return partial(fill_from_first, ranks=self.ranks, device=self.trainer.strategy.root_device)

    def on_fit_start(self) -> None:
        if self.device.type == "cpu" and self.ranks.size == 1 and self.device_mesh is None:
            keep_inputs_alone(self.model)
        if self.reference is not None:
            self.reference.move(self.device)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        optimizer = self._make_optimizer([p for p in self.model.parameters() if p.requires_grad])
        if self.restore_optimizer is not None:
            self.restore_optimizer(optimizer)
        if self.settings.warmup_steps:
            warm_up(optimizer, steps=self.settings.warmup_steps)
        return optimizer

    def training_step(self, step: int, batch_index: int) -> None:
        """One rollout and its `updates_per_rollout` optimiser steps; metrics are left in `step_metrics`."""
        batch = self.batches[step]
        metrics: dict[str, float] = {}
        with timed(metrics, "step"):
            # Lightning runs all of this under the autocast of the trainer's precision, which is meant for the update:
            # tokens would be drawn from probabilities added up in bf16. Engines have a dtype of their own.
            with torch.autocast(self.device.type, enabled=False):
                give_back()  # an engine that wakes, or one that is replaced, needs that memory
                groups, rewards = self._rollout(batch, metrics)
            metrics.update(rollout_metrics(groups, rewards))
            if isinstance(self.engine, RestingEngine):
                self.engine.rest()
            give_back()
            with timed(metrics, "update"):
                metrics.update(self.learn(groups, rewards))
        metrics.update(speed(metrics, parameters=sum(p.numel() for p in self.model.parameters())))
        self.rollouts_done += 1
        self.step_metrics = {f"{self.stage}/{name}": value for name, value in metrics.items()}

    # ------------------------------------------------------------------------------------------------------ rollout

    def _rollout(self, batch: Batch, metrics: dict[str, float]) -> tuple[list[Group], Rewards]:
        """Groups drawn from the weights of this step, and their rewards; says in `metrics` how long both took."""
        with timed(metrics, "rollout"):
            self.watch("giving the engine what was learned")
            self.engine.sync(self.policy)
            groups = self._draw(self.prompts(batch), "rollout", self.rollouts_done)
        with timed(metrics, "reward"):
            rewards = self._paid(groups, batch)
        if self.settings.refill is None:
            return groups, rewards
        return self._refilled(groups, rewards, batch, refill=self.settings.refill, metrics=metrics)

    def _draw(self, prompts: Sequence[Prompt], *names: str | int) -> list[Group]:
        return self.draw(prompts, self.settings.rollout_sampling(seed=derive(self.seed, *names)))

    def _paid(self, groups: Sequence[Group], batch: Batch) -> Rewards:
        self.watch("rewards")
        rewards = self.pay(groups, batch)
        if self.settings.overlong is None:
            return rewards
        return self.settings.overlong(groups, rewards, max_tokens=self.settings.sampling["max_tokens"])

    def _refilled(
        self, groups: Sequence[Group], rewards: Rewards, batch: Batch, *, refill: Refill, metrics: dict[str, float]
    ) -> tuple[list[Group], Rewards]:
        """The rollout with groups that teach nothing replaced, as far as the bound on extra rollouts allows."""
        groups, rewards, asked, replaced = list(groups), list(rewards), 0, 0
        for extra in range(refill.max_rounds):
            uninformative = refill.uninformative(rewards)
            others = self.spare(batch, start=asked, count=len(uninformative))
            prompts = self.prompts(others)[: len(uninformative)]
            if not prompts:
                break
            asked += len(prompts)
            with timed(metrics, "rollout"):
                drawn = self._draw(prompts, "refill", self.rollouts_done, extra)
            with timed(metrics, "reward"):
                paid = self._paid(drawn, others)
            teaching = sorted(set(range(len(drawn))) - set(refill.uninformative(paid)))
            for place, index in zip(uninformative, teaching, strict=False):
                groups[place], rewards[place] = drawn[index], paid[index]
            replaced += len(teaching)
        metrics["refill/replaced_groups"] = float(replaced)
        return groups, rewards

    # ------------------------------------------------------------------------------------------------------- update

    def learn(self, groups: Sequence[Group], rewards: Rewards) -> dict[str, float]:
        """The optimiser steps of a rollout (`rzero.modules.update`) and their metrics."""
        optimizer = self.optimizers()
        assert isinstance(optimizer, LightningOptimizer)
        update = Update(
            model=self.model,
            reference=self.reference,
            wrapper=self.trainer.strategy.model,
            optimizer=optimizer,
            backward=self.manual_backward,
            settings=self.settings,
            loss=self.loss,
            ranks=self.ranks,
            watch=self.watch,
            pad_id=self.policy.pad_id(),
            device=self.device,
            droppable_V=self.droppable_V,
        )
        return update(groups, rewards)
