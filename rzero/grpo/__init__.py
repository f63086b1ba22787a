"""Group relative policy optimisation as pure functions of tensors.

Read in this order: `advantage` (rewards to advantages), `aggregation` (what one token weighs), `kl`, `mismatch` (engine
against trainer), `loss` (the objective that puts them together).

Shapes: N rows of a rollout, M of a mini-batch, B of a micro-batch, T positions.
"""

from rzero.grpo.advantage import (
    RewardStatistics,
    group_advantages,
    positive_advantages,
    reward_statistics,
    soft_overlong_penalty,
)
from rzero.grpo.aggregation import (
    Aggregation,
    ConstantLength,
    MicroBatchMean,
    MiniBatchTotals,
    SequenceMean,
    TokenMean,
    mini_batch_totals,
)
from rzero.grpo.kl import kl_divergence, kl_penalised_rewards
from rzero.grpo.loss import LossOutput, PolicyLoss
from rzero.grpo.mismatch import MaskedImportanceSampling, MismatchCorrection, TruncatedImportanceSampling

__all__ = [
    "Aggregation",
    "ConstantLength",
    "LossOutput",
    "MaskedImportanceSampling",
    "MicroBatchMean",
    "MiniBatchTotals",
    "MismatchCorrection",
    "PolicyLoss",
    "RewardStatistics",
    "SequenceMean",
    "TokenMean",
    "TruncatedImportanceSampling",
    "group_advantages",
    "kl_divergence",
    "kl_penalised_rewards",
    "mini_batch_totals",
    "positive_advantages",
    "reward_statistics",
    "soft_overlong_penalty",
]
