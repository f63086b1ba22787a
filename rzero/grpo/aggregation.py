"""The weight of one token in the loss of one optimiser step.

The averaging of GRPO's loss is a choice of the method; micro-batches are a matter of memory. So each choice below turns
the mask of a whole mini-batch (all micro-batches and all ranks of one optimiser step) into a weight per token, and the
loss is the plain sum of weight x token loss. Any split of it into micro-batches then gives the same gradient.

A completion that is left out (masked truncation) is a row without scored tokens. It stays in the denominator wherever
sequences are counted, as in TRL's `grpo` and `dr_grpo` and in the authors' actor: a step in which half of the
completions were cut is half a step. Where tokens are counted (TRL's `bnpo` and `dapo`) only scored ones are. What pads
a rank's micro-batches is no row of the mini-batch and never counts.

Every rank makes the weights of the whole mini-batch and keeps those of its rows. DDP and FSDP *average* gradients over
ranks, so the caller multiplies the loss by their number.

Shapes: M rows of the whole mini-batch in rollout order, C completion positions, Z runs of a fixed size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class MiniBatchTotals:
    """Size of one optimiser step: scored tokens, and all sequences, masked ones included (0-dimensional int64)."""

    tokens: Tensor
    sequences: Tensor


def mini_batch_totals(mask_MC: Tensor) -> MiniBatchTotals:
    """Counts of a mini-batch's mask (M, C), in which non-zero means that the token is scored."""
    tokens = (mask_MC != 0).sum()
    return MiniBatchTotals(tokens=tokens, sequences=torch.full_like(tokens, mask_MC.shape[0]))


class Aggregation(Protocol):
    """One way of averaging. The loss calls nothing; the trainer calls `weights` once per optimiser step:

    >>> weights_MC = loss.aggregation.weights(mask_MC, totals=mini_batch_totals(mask_MC))
    >>> for part in micro_batches(plan(rows, ...), weights_of=..., ...):
    ...     loss(..., weights_BT=part.weights_BT).loss.backward()
    """

    def weights(self, mask_MC: Tensor, *, totals: MiniBatchTotals, dtype: torch.dtype = torch.float32) -> Tensor:
        """Weight of each token (M, C); 0 where masked. `mask_MC` is the whole mini-batch in rollout order."""
        ...


@dataclass(frozen=True, slots=True)
class TokenMean:
    """Every scored token of the mini-batch weighs the same (DAPO, arXiv 2503.14476 equation 8)."""

    def weights(self, mask_MC: Tensor, *, totals: MiniBatchTotals, dtype: torch.dtype = torch.float32) -> Tensor:
        return (mask_MC != 0).to(dtype) / totals.tokens.clamp(min=1)


@dataclass(frozen=True, slots=True)
class SequenceMean:
    """Mean over all sequences of the mean over their scored tokens (GRPO, arXiv 2402.03300 equation 3).

    A sequence without one adds 0 to the sum. Equals the official code with micro-batches of 1, which is how its Solver
    was trained.
    """

    def weights(self, mask_MC: Tensor, *, totals: MiniBatchTotals, dtype: torch.dtype = torch.float32) -> Tensor:
        counted_MC = (mask_MC != 0).to(dtype)
        length_M1 = counted_MC.sum(dim=1, keepdim=True).clamp(min=1)
        return counted_MC / (length_M1 * totals.sequences.clamp(min=1))


@dataclass(frozen=True, slots=True, kw_only=True)
class ConstantLength:
    """Sum over scored tokens over all sequences x a constant, so length does not enter (Dr. GRPO, arXiv 2503.20783).

    `max_tokens`: the constant, usually the longest response sampling allows. Weights do not sum to 1.
    """

    max_tokens: int

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ValueError(f"aggregation.max_tokens must be at least 1, got {self.max_tokens}")

    def weights(self, mask_MC: Tensor, *, totals: MiniBatchTotals, dtype: torch.dtype = torch.float32) -> Tensor:
        return (mask_MC != 0).to(dtype) / (totals.sequences.clamp(min=1) * self.max_tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatchMean:
    """The official code's average: token mean inside each run of `size` sequences, then the mean over runs.

    `size` is the micro-batch size of the code being reproduced (its Challenger: 2), not the one that fits our memory.
    Runs follow rollout order. A run weighs in proportion to its sequences, masked ones included: the plain mean of the
    official code when every run is full, and well defined when the last one is not.
    """

    size: int

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"aggregation.size must be at least 1, got {self.size}")

    def weights(self, mask_MC: Tensor, *, totals: MiniBatchTotals, dtype: torch.dtype = torch.float32) -> Tensor:
        counted_MC = (mask_MC != 0).to(dtype)
        length_M = counted_MC.sum(dim=1)
        run_M = torch.arange(mask_MC.shape[0], device=mask_MC.device) // self.size
        zeros_Z = length_M.new_zeros(-(-mask_MC.shape[0] // self.size))
        tokens_Z = zeros_Z.index_add(0, run_M, length_M)
        sequences_Z = zeros_Z.index_add(0, run_M, torch.ones_like(length_M))
        weight_Z = sequences_Z / (tokens_Z.clamp(min=1) * totals.sequences.clamp(min=1))
        return counted_MC * weight_Z[run_M].unsqueeze(1)
