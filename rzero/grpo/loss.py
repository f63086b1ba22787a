"""The policy loss: a clipped (or CISPO) surrogate, plus KL to the reference, minus an entropy bonus.

Shapes: B sequences of one micro-batch, T positions. Every sum over tokens is weighted by `weights_BT`, which
`rzero.grpo.aggregation` makes once for the whole optimiser step; nothing in here knows how the step is split.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from rzero.grpo.aggregation import Aggregation
from rzero.grpo.kl import LOG_RATIO_LIMIT, KLEstimator, kl_divergence
from rzero.grpo.mismatch import MismatchCorrection, refuse_unbounded_truncation
from rzero.types import FinishReason, Sampling


@dataclass(frozen=True, slots=True, kw_only=True)
class LossOutput:
    """One micro-batch's share of the step. Shares of all micro-batches (and ranks) add up to the step's values.

    `loss` carries the gradient. `metrics` are detached weighted sums; after adding up, those that are means over tokens
    are divided by the added-up `weight`; `policy_loss` is not. That weight is 1 where every sequence has scored tokens,
    except for ConstantLength.
    """

    loss: Tensor
    metrics: Mapping[str, Tensor]
    weight: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyLoss:
    """GRPO's objective and its relatives; every number comes from `conf/loss/`.

    clip_low, clip_high: the ratio is clipped to [1 - clip_low, 1 + clip_high] (asymmetric: DAPO, arXiv 2503.14476).
    dual_clip: where A < 0 the ratio counts at most this much (arXiv 1912.09729); None: unbounded.
    importance: the ratio of each token, or of the sequence's geometric mean (GSPO, arXiv 2507.18071 equation 7).
    objective: `clip` = -min(ratio A, clipped ratio A); `cispo` = -stop_gradient(clipped ratio) A logp
        (arXiv 2506.13585 equation 4), where clip_low=1 means no lower bound.
    kl_*: see `rzero.grpo.kl`. `kl_placement="reward"` leaves the loss alone: the trainer then passes rewards through
        `kl_penalised_rewards`. kl_coefficient=0 needs no reference at all (`needs_reference`).
    entropy_coefficient: above 0 entropy is paid for; below 0 it costs: the policy becomes more certain of what it draws
        (arXiv 2505.15134), by an exact gradient, where the policy term has one sample of each token.
    mismatch: weights for tokens the engine scored differently from the trainer, or None.
    truncated: whether completions cut at the length limit are learned from (`keep`) or left out (`mask`).
    """

    clip_low: float
    clip_high: float
    aggregation: Aggregation
    dual_clip: float | None = None
    importance: Literal["token", "sequence"] = "token"
    objective: Literal["clip", "cispo"] = "clip"
    kl_estimator: KLEstimator = "k3"
    kl_coefficient: float = 0.0
    kl_clamp: float = math.inf
    kl_placement: Literal["loss", "reward"] = "loss"
    entropy_coefficient: float = 0.0
    mismatch: MismatchCorrection | None = None
    truncated: Literal["keep", "mask"] = "keep"

    def __post_init__(self) -> None:
        if not 0 <= self.clip_low <= 1 or self.clip_high < 0:
            raise ValueError(
                f"loss.clip_low must lie in [0, 1] and clip_high be >= 0, got {self.clip_low}, {self.clip_high}"
            )
        if self.dual_clip is not None and self.dual_clip <= 1 + self.clip_high:
            raise ValueError(f"loss.dual_clip must exceed 1 + clip_high = {1 + self.clip_high}, got {self.dual_clip}")
        if self.kl_coefficient < 0 or self.kl_clamp <= 0:
            raise ValueError(
                f"loss needs kl_coefficient >= 0 and kl_clamp > 0, got {self.kl_coefficient}, {self.kl_clamp}"
            )
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"loss.{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")

    @property
    def needs_reference(self) -> bool:
        """Whether reference log-probabilities have to be computed at all."""
        return self.kl_coefficient > 0

    def check_sampling(self, sampling: Sampling) -> None:
        """Raise ValueError when this loss cannot be used with completions drawn like that. Call it before training."""
        if self.mismatch is not None:
            refuse_unbounded_truncation(sampling)

    def counts(self, finish_reason: FinishReason) -> bool:
        """Whether a completion that ended like this is learned from."""
        return self.truncated == "keep" or finish_reason == "stop"

    def __call__(
        self,
        *,
        logp_BT: Tensor,
        old_logp_BT: Tensor,
        ref_logp_BT: Tensor | None,
        advantages_B: Tensor,
        weights_BT: Tensor,
        mask_BT: Tensor,
        entropy_BT: Tensor | None = None,
        engine_logp_BT: Tensor | None = None,
    ) -> LossOutput:
        """Loss and metrics of one micro-batch.

        `logp_BT` carries the gradient; old (the trainer's at rollout time), reference and engine log-probs do not.
        Values where `mask_BT` is zero are never read, so they may hold anything, NaN included. Advantages are (B,).
        """
        counted_BT = mask_BT != 0
        logp, old_logp = _masked(logp_BT, counted_BT), _masked(old_logp_BT.detach(), counted_BT)
        surrogate_BT, metrics = self._surrogate(
            self._log_ratio(logp - old_logp, counted_BT=counted_BT),
            logp_BT=logp,
            advantages_B1=advantages_B.to(logp.dtype).unsqueeze(1),
        )
        if engine_logp_BT is not None:
            engine_logp = _masked(engine_logp_BT.detach(), counted_BT)
            metrics["sampling/sampling_logp_difference/mean"] = (old_logp - engine_logp).abs()
        if self.mismatch is not None:
            if engine_logp_BT is None:
                raise ValueError("loss.mismatch is set but the engine's log-probabilities were not given")
            correction_BT = self.mismatch.weights(old_logp_BT=old_logp, engine_logp_BT=engine_logp, mask_BT=counted_BT)
            metrics["sampling/importance_sampling_ratio/mean"] = correction_BT
            surrogate_BT = surrogate_BT * correction_BT
        metrics["policy_loss"] = surrogate_BT

        penalty_BT = self._penalties(logp, ref_logp_BT=ref_logp_BT, entropy_BT=entropy_BT, counted_BT=counted_BT)
        metrics |= penalty_BT
        token_loss_BT = surrogate_BT
        if self.kl_coefficient and self.kl_placement == "loss":
            token_loss_BT = token_loss_BT + self.kl_coefficient * penalty_BT["kl"]
        if self.entropy_coefficient:
            token_loss_BT = token_loss_BT - self.entropy_coefficient * penalty_BT["entropy"]

        weights_BT = torch.where(counted_BT, weights_BT, 0.0)
        return LossOutput(
            loss=(weights_BT * token_loss_BT).sum(),
            metrics={name: (weights_BT * value_BT.detach()).sum() for name, value_BT in metrics.items()},
            weight=weights_BT.sum(),
        )

    def _penalties(
        self, logp_BT: Tensor, *, ref_logp_BT: Tensor | None, entropy_BT: Tensor | None, counted_BT: Tensor
    ) -> dict[str, Tensor]:
        """KL and entropy per token, as far as their inputs were given; ValueError when one is needed but absent."""
        if self.needs_reference and ref_logp_BT is None:
            raise ValueError("loss.kl_coefficient is positive but the reference's log-probabilities were not given")
        if self.entropy_coefficient and entropy_BT is None:
            raise ValueError("loss.entropy_coefficient is set but the entropy was not given")
        penalties = {}
        if ref_logp_BT is not None:
            penalties["kl"] = kl_divergence(
                logp_BT,
                _masked(ref_logp_BT.detach(), counted_BT),
                estimator=self.kl_estimator,
                clamp=self.kl_clamp,
            )
        if entropy_BT is not None:
            penalties["entropy"] = _masked(entropy_BT, counted_BT)
        return penalties

    def _log_ratio(self, log_ratio_BT: Tensor, *, counted_BT: Tensor) -> Tensor:
        if self.importance == "sequence":
            length_B1 = counted_BT.sum(dim=1, keepdim=True).clamp(min=1)
            log_ratio_BT = (log_ratio_BT.sum(dim=1, keepdim=True) / length_B1).expand_as(log_ratio_BT)
        return log_ratio_BT

    def _surrogate(
        self, log_ratio_BT: Tensor, *, logp_BT: Tensor, advantages_B1: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Token losses of the policy term, and the metrics about the ratio.

        Clipping happens on the logarithm, so that the clipped branch never holds an infinity times a zero gradient.
        """
        low = math.log1p(-self.clip_low) if self.clip_low < 1 else -math.inf
        high = math.log1p(self.clip_high)
        ratio_BT = log_ratio_BT.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()
        clipped_BT = log_ratio_BT.clamp(max(low, -LOG_RATIO_LIMIT), high).exp()
        below_BT, above_BT = log_ratio_BT < low, log_ratio_BT > high
        dual_BT = torch.zeros_like(below_BT)

        if self.objective == "cispo":
            loss_BT = -clipped_BT.detach() * advantages_B1 * logp_BT
        else:
            below_BT, above_BT = below_BT & (advantages_B1 < 0), above_BT & (advantages_B1 > 0)
            loss_BT = -advantages_B1 * torch.where(below_BT | above_BT, clipped_BT, ratio_BT)
            if self.dual_clip is not None:
                dual_BT = (ratio_BT > self.dual_clip) & (advantages_B1 < 0)
                loss_BT = torch.where(dual_BT, -advantages_B1 * self.dual_clip, loss_BT)
        return loss_BT, {
            "clip_ratio/low_mean": below_BT.to(loss_BT.dtype),
            "clip_ratio/high_mean": above_BT.to(loss_BT.dtype),
            "clip_ratio/dual_mean": dual_BT.to(loss_BT.dtype),
            "ratio": ratio_BT,
            "ppo_kl": -log_ratio_BT,  # k1 estimate of KL(old || policy): how far this step has moved
        }


_CHOICES = {
    "importance": ("token", "sequence"),
    "objective": ("clip", "cispo"),
    "kl_estimator": ("k1", "k2", "k3"),
    "kl_placement": ("loss", "reward"),
    "truncated": ("keep", "mask"),
}


def _masked(values_BT: Tensor, counted_BT: Tensor) -> Tensor:
    """Values with 0 where not counted, in float32 or wider. `where` also keeps a NaN there out of the gradient."""
    dtype = torch.promote_types(values_BT.dtype, torch.float32)
    return torch.where(counted_BT, values_BT.to(dtype), 0.0)
