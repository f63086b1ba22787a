"""Correction for an engine whose probabilities differ from the trainer's.

Completions are drawn by the engine (another kernel, perhaps another precision) but scored by the trainer, so even the
first update is a little off-policy. Both corrections weigh the policy loss by exp(trainer - engine) log-probability at
rollout time (F. Yao et al., "Your Efficient RL Framework Secretly Brings You Off-Policy RL Training", 2025).

Both log-probabilities are those at the sampling temperature and before truncation. Under top_p a token a is drawn with
q(a) / Q, where Q is the mass of the engine's nucleus, and the trainer's own p would give it p(a) / P. The exact weight
is (p(a) / q(a)) (Q / P): ours is exact up to the ratio of the two masses, which lies within [top_p, 1 / top_p]. (vLLM
says q(a) / Q; the factor is then 1 / P, within [1, 1 / top_p].)

Shapes: B sequences, T positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from rzero.grpo.kl import LOG_RATIO_LIMIT
from rzero.types import Sampling

Level = Literal["token", "sequence"]


class MismatchCorrection(Protocol):
    """The policy loss multiplies each token by these weights, which carry no gradient."""

    def weights(self, *, old_logp_BT: Tensor, engine_logp_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """Weight per token (B, T), at least 0; 1 where engine and trainer agree."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TruncatedImportanceSampling:
    """min(ratio, cap), by token or by sequence (product of the token ratios): bounded variance, a little bias."""

    cap: float = 2.0
    level: Level = "token"

    def __post_init__(self) -> None:
        if self.cap <= 0:
            raise ValueError(f"mismatch.cap must be positive, got {self.cap}")
        _check_level(self.level)

    def weights(self, *, old_logp_BT: Tensor, engine_logp_BT: Tensor, mask_BT: Tensor) -> Tensor:
        return _ratio(old_logp_BT, engine_logp_BT, mask_BT, level=self.level).clamp(max=self.cap)


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskedImportanceSampling:
    """The ratio where it lies in [low, high] and 0 elsewhere: what the engine got too wrong is not learned from."""

    low: float = 0.5
    high: float = 2.0
    level: Level = "token"

    def __post_init__(self) -> None:
        if not 0 <= self.low <= 1 <= self.high:
            raise ValueError(f"mismatch needs 0 <= low <= 1 <= high, got low={self.low}, high={self.high}")
        _check_level(self.level)

    def weights(self, *, old_logp_BT: Tensor, engine_logp_BT: Tensor, mask_BT: Tensor) -> Tensor:
        ratio_BT = _ratio(old_logp_BT, engine_logp_BT, mask_BT, level=self.level)
        return torch.where((ratio_BT >= self.low) & (ratio_BT <= self.high), ratio_BT, 0.0)


def refuse_unbounded_truncation(sampling: Sampling) -> None:
    """Raise where nothing bounds what the ratio of log-probabilities leaves out: under top_k and greedy decoding."""
    if sampling.top_k > 0 or sampling.temperature == 0:
        raise ValueError(
            "mismatch correction knows no weights under top_k or greedy decoding, got "
            f"temperature={sampling.temperature}, top_k={sampling.top_k}: "
            "set top_k=0 and a positive temperature, or loss.mismatch=null"
        )


def _ratio(old_logp_BT: Tensor, engine_logp_BT: Tensor, mask_BT: Tensor, *, level: Level) -> Tensor:
    counted_BT = mask_BT != 0
    difference_BT = torch.where(counted_BT, old_logp_BT.detach() - engine_logp_BT.detach(), 0.0)
    if level == "sequence":
        difference_BT = difference_BT.sum(dim=1, keepdim=True).expand_as(difference_BT)
    return difference_BT.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()


def _check_level(level: str) -> None:
    if level not in ("token", "sequence"):
        raise ValueError(f"mismatch.level must be token or sequence, got {level!r}")
