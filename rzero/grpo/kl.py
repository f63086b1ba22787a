"""Estimates of KL(policy || reference) from the log-probabilities of sampled tokens.

Shapes: B sequences, T positions.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

KLEstimator = Literal["k1", "k2", "k3"]

LOG_RATIO_LIMIT = 20.0  # e^20 = 5e8: past it a float32 sum over tokens says nothing but overflow


def kl_divergence(logp_BT: Tensor, ref_logp_BT: Tensor, *, estimator: KLEstimator, clamp: float) -> Tensor:
    """Per-token estimate in nats (B, T), clamped to [-clamp, clamp] (J. Schulman, http://joschu.net/blog/kl-approx.html).

    With d = ref_logp - logp: k1 = -d (unbiased, high variance), k2 = d^2 / 2 (biased, its gradient is the right one),
    k3 = e^d - d - 1 (unbiased, never negative). As a term of the *loss* k1 does not regularise, because its gradient
    has mean zero; it belongs in the reward. Where the clamp is active the gradient is 0, exactly where the policy is
    furthest from the reference; `clamp=inf` turns it off.
    """
    difference_BT = (ref_logp_BT - logp_BT).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    if estimator == "k1":
        estimate_BT = -difference_BT
    elif estimator == "k2":
        estimate_BT = difference_BT.square() / 2
    elif estimator == "k3":
        estimate_BT = difference_BT.exp() - difference_BT - 1
    else:
        raise ValueError(f"loss.kl_estimator must be k1, k2 or k3, got {estimator!r}")
    return estimate_BT.clamp(-clamp, clamp)


def kl_penalised_rewards(rewards_B: Tensor, *, kl_BT: Tensor, mask_BT: Tensor, coefficient: float) -> Tensor:
    """Rewards less `coefficient` times each completion's summed KL: a penalty in the reward."""
    penalty_B = torch.where(mask_BT != 0, kl_BT.detach(), 0.0).sum(dim=1)
    return rewards_B - coefficient * penalty_B.to(rewards_B.dtype)
