"""The numbers of GRPO that both roles have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NotRequired, TypedDict

from torch import Tensor

from rzero.grpo import PolicyLoss
from rzero.modules.choices import OverlongPenalty, Refill
from rzero.types import Sampling


class RolloutSampling(TypedDict):
    """The part of `Sampling` that is configured; the rest is the step's."""

    temperature: float
    max_tokens: int
    top_p: NotRequired[float]
    top_k: NotRequired[int]
    vocabulary_dropout: NotRequired[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class GRPOSettings:
    """Settings that both roles share, in the words of the config.

    steps: rollouts in a phase. prompts_per_step: groups per rollout. samples_per_prompt: completions per group (the
    group size). updates_per_rollout: optimiser steps per rollout. max_tokens_per_microbatch: tokens in memory at once,
    padding included. share_prompts: completions of one prompt go through the model behind one copy of it and without
    padding; the same maths in other roundings. chunk_tokens: rows of logits that exist at once. max_grad_norm: gradient
    clipping by norm. sampling: of the rollouts. advantage: from rewards (N,) and group numbers (N,) to advantages
    (N,). refill, overlong: see `rzero.modules.choices`; None: not used. warmup_steps: of the optimiser, in which the
    learning rate rises to its value (`rzero.modules.warmup`); 0: it is there from the first. skip_zero_advantages:
    completions with advantage 0, which the policy term learns nothing from, do not go through the model; means over
    tokens are then of the others, and an entropy term moves the entropy of these alone. Needs a loss without KL, which
    holds the policy back on every completion.
    """

    steps: int
    prompts_per_step: int
    samples_per_prompt: int
    updates_per_rollout: int
    max_tokens_per_microbatch: int
    share_prompts: bool
    chunk_tokens: int
    max_grad_norm: float
    sampling: RolloutSampling
    advantage: Callable[[Tensor, Tensor], Tensor]
    refill: Refill | None = None
    overlong: OverlongPenalty | None = None
    warmup_steps: int = 0
    skip_zero_advantages: bool = False

    def __post_init__(self) -> None:
        if self.samples_per_prompt < 2:
            raise ValueError(
                f"samples_per_prompt (the group size) must be at least 2, got {self.samples_per_prompt}: "
                "GRPO compares the completions of one prompt with one another"
            )
        if self.steps < 0:
            raise ValueError(f"steps must be 0 (leave the role as it is) or positive, got {self.steps}")
        if self.warmup_steps < 0:
            raise ValueError(f"warmup_steps must be 0 (no warm-up) or positive, got {self.warmup_steps}")
        if not 1 <= self.updates_per_rollout <= self.prompts_per_step:
            raise ValueError(
                f"updates_per_rollout must lie in 1..prompts_per_step ({self.prompts_per_step}), "
                f"got {self.updates_per_rollout}"
            )
        sampling = self.rollout_sampling(seed=0)
        if self.overlong is not None:
            self.overlong.buffer_tokens(sampling.max_tokens)

    def check(self, loss: PolicyLoss) -> None:
        """Raise ValueError where these settings and the loss of a role do not go together."""
        loss.check_sampling(self.rollout_sampling(seed=0))
        if self.skip_zero_advantages and loss.needs_reference:
            raise ValueError(
                "settings.skip_zero_advantages needs kl_coefficient=0: the KL is learned from every completion"
            )

    def rollout_sampling(self, *, seed: int) -> Sampling:
        return Sampling(n=self.samples_per_prompt, seed=seed, **self.sampling)
