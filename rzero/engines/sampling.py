"""Drawing one token per row from logits, with random numbers that do not depend on the batch.

Every uniform is a hash of (seed, prompt index, sample index, step, attempt). So a completion is the same whatever other
rows share its batch, in whatever order they finish.

Shapes: B rows, Y of them to be drawn again, V vocabulary, I candidates, N blocks of a vocabulary.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rzero.types import Sampling

# Constants of splitmix64 (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators").
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_WIDE = 16384  # tokens from which a vocabulary is summed up in blocks: below it everything stays in the cache anyway
_BLOCK = 128
Steps = int | NDArray[np.int64]
"""Tokens drawn before: by all rows alike, or by each."""
_ATTEMPTS = 64  # counter stride per step; more redraws than that reach into later steps, harmlessly


def row_keys(seed: int, *, prompt_index: NDArray[np.int64], sample_index: NDArray[np.int64]) -> NDArray[np.uint64]:
    """One 64-bit key per row, from the seed of the call and the row's place in it."""
    key = _mix(np.full(prompt_index.shape, seed % 2**64, dtype=np.uint64))
    key = _mix(key ^ prompt_index.astype(np.uint64))
    return _mix(key ^ sample_index.astype(np.uint64))


def uniforms(keys: NDArray[np.uint64], *, step: Steps, attempt: int) -> NDArray[np.float32]:
    """One number in [0, 1) per key, a multiple of 2**-24, for the given step and redraw."""
    counter = np.atleast_1d(step).astype(np.uint64) * np.uint64(_ATTEMPTS) + np.uint64(attempt)
    return (_mix(keys + counter * _GOLDEN) >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)


def _mix(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    state = state + _GOLDEN
    state = (state ^ (state >> np.uint64(30))) * _MIX_1
    state = (state ^ (state >> np.uint64(27))) * _MIX_2
    return state ^ (state >> np.uint64(31))


class TokenSampler:
    """Draws tokens for rows that are decoded side by side. `keep` drops rows as they finish, `join` appends others.

    Order as everywhere: temperature, then top-k, then top-p over what top-k left. The log-prob (nats) of a drawn token
    is that of the temperature-scaled distribution *before* truncation, which is what the training model can recompute.
    Temperature 0 takes the most probable token and reports its log-prob at temperature 1. dropped_BV: tokens that a row
    does without, before all that.
    """

    def __init__(self, sampling: Sampling, *, keys: NDArray[np.uint64], dropped_BV: Tensor | None = None) -> None:
        self._sampling = sampling
        self._keys = keys
        self._dropped_BV = dropped_BV

    def keep(self, kept: NDArray[np.int64]) -> None:
        self._keys = self._keys[kept]
        if self._dropped_BV is not None:
            self._dropped_BV = self._dropped_BV[torch.from_numpy(kept).to(self._dropped_BV.device)]

    def join(self, others: TokenSampler) -> None:
        """Draws for the rows of another sampler too, behind its own."""
        self._keys = np.concatenate([self._keys, others._keys])
        if self._dropped_BV is not None and others._dropped_BV is not None:
            self._dropped_BV = torch.cat([self._dropped_BV, others._dropped_BV.to(self._dropped_BV.device)])

    def draw(self, logits_BV: Tensor, *, step: Steps) -> tuple[Tensor, Tensor]:
        """Token ids and log-probs, both [B]. Overwrites `logits_BV`."""
        sampling = self._sampling
        if self._dropped_BV is not None:
            self._dropped_BV = self._dropped_BV.to(logits_BV.device)
            logits_BV.masked_fill_(self._dropped_BV, -torch.inf)
        if sampling.temperature not in (0.0, 1.0):
            logits_BV.mul_(1.0 / sampling.temperature)
        if sampling.temperature == 0.0:
            peak_B, best_B = logits_BV.max(-1)
            return best_B, -logits_BV.sub_(peak_B[:, None]).exp_().sum(-1).log()
        if logits_BV.shape[-1] >= _WIDE:
            weights_BV, sums_BN = _weights_in_blocks(logits_BV)
            mass_B = sums_BN.sum(-1)
        else:
            weights_BV = logits_BV.sub_(logits_BV.amax(-1, keepdim=True)).exp_()  # not normalised, at most 1
            mass_B, sums_BN = weights_BV.sum(-1), None
        if sampling.top_k and sampling.top_p < 1.0:
            token_B, weight_B = self._draw_sorted(weights_BV, step=step, attempt=0, rows=None)
        else:
            token_B, weight_B = self._draw_and_redraw(weights_BV, mass_B, sums_BN, step=step)
        return token_B, weight_B.log() - mass_B.log()

    def _draw_sorted(
        self, weights_BV: Tensor, *, step: Steps, attempt: int, rows: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Top-k, then top-p over what it left, by sorting the k largest weights."""
        k = min(self._sampling.top_k, weights_BV.shape[-1])
        weights_BI, ids_BI = weights_BV.topk(k, dim=-1)
        cdf_BI = weights_BI.cumsum(-1)
        if self._sampling.top_p < 1.0:
            # A token stays when the mass in front of it has not reached top_p: the first token always does.
            weights_BI = weights_BI.masked_fill(cdf_BI - weights_BI >= self._sampling.top_p * cdf_BI[:, -1:], 0.0)
            cdf_BI = weights_BI.cumsum(-1)
        choice_B1 = invert_cdf(cdf_BI, self._uniforms(step=step, attempt=attempt, rows=rows))[:, None]
        return ids_BI.gather(1, choice_B1).squeeze(1), weights_BI.gather(1, choice_B1).squeeze(1)

    def _draw_and_redraw(
        self, weights_BV: Tensor, mass_B: Tensor, sums_BN: Tensor | None, *, step: Steps
    ) -> tuple[Tensor, Tensor]:
        """Top-k or top-p with as little sorting as possible: draw, and draw again where the token is cut off.

        Exact, because a draw from all tokens is, given that it stays, a draw from those that stay. For top-p a token
        that is cut off takes everything behind it along before the next draw, so few rounds are needed.
        """
        uniform_B = self._uniforms(step=step, attempt=0, rows=None)
        if sums_BN is None:
            token_B = invert_cdf(weights_BV.cumsum(-1), uniform_B)
        else:
            token_B = _invert_in_blocks(weights_BV, sums_BN, uniform_B)
        weight_B = weights_BV.gather(1, token_B[:, None]).squeeze(1)
        # Most tokens are likely enough to stay without a look at the others: one that is cut off has at most 1 - top_p
        # of the mass, or top_k tokens in front of it that are no lighter than itself.
        top_k = self._sampling.top_k
        safe_share = 1.0 / top_k if top_k else 1.0 - self._sampling.top_p
        rows = (weight_B <= safe_share * mass_B).nonzero().squeeze(1) if safe_share else token_B[:0]
        candidates_YV, attempt = weights_BV[rows], 0
        while rows.numel():
            ahead_YV = candidates_YV * _is_ahead(candidates_YV, token_B[rows], weight_B[rows])
            attempt += 1
            if top_k:
                again_Y = (ahead_YV > 0).sum(-1) >= top_k
                rows = rows[again_Y]
                token_B[rows], weight_B[rows] = self._draw_sorted(
                    candidates_YV[again_Y], step=step, attempt=attempt, rows=rows
                )
                break
            again_Y = ahead_YV.sum(-1) >= self._sampling.top_p * mass_B[rows]
            rows, candidates_YV = rows[again_Y], ahead_YV[again_Y]
            token_B[rows] = invert_cdf(candidates_YV.cumsum(-1), self._uniforms(step=step, attempt=attempt, rows=rows))
            weight_B[rows] = candidates_YV.gather(1, token_B[rows][:, None]).squeeze(1)
        return token_B, weight_B

    def _uniforms(self, *, step: Steps, attempt: int, rows: Tensor | None) -> Tensor:
        keys, chosen = self._keys, None if rows is None else rows.cpu().numpy()
        if chosen is not None:
            keys, step = keys[chosen], step if isinstance(step, int) else step[chosen]
        return torch.from_numpy(uniforms(keys, step=step, attempt=attempt))


def invert_cdf(cdf_BV: Tensor, uniform_B: Tensor) -> Tensor:
    """The first index whose cumulative weight exceeds `uniform` times the total; never an index of weight zero."""
    total_B = cdf_BV[:, -1]
    # Rounding may lift the product to the total itself, which no entry exceeds.
    target_B = torch.minimum(uniform_B.to(total_B) * total_B, _just_below(total_B))
    return torch.searchsorted(cdf_BV, target_B[:, None], right=True).squeeze(1)


def _weights_in_blocks(logits_BV: Tensor) -> tuple[Tensor, Tensor]:
    """Returns weights (not normalised, at most 1), written over the logits, and their sums over `_BLOCK` tokens each.

    Row by row: a row of a large vocabulary fits the cache between the passes over it, all rows together do not.
    """
    whole = logits_BV.shape[-1] // _BLOCK * _BLOCK
    sums_BN = logits_BV.new_empty(len(logits_BV), -(-logits_BV.shape[-1] // _BLOCK))
    for logits_V, sums_N in zip(logits_BV, sums_BN, strict=True):
        logits_V.sub_(logits_V.amax()).exp_()
        sums_N[: whole // _BLOCK] = logits_V[:whole].view(-1, _BLOCK).sum(-1)
        if whole < len(logits_V):
            sums_N[-1] = logits_V[whole:].sum()
    return logits_BV, sums_BN


def _invert_in_blocks(weights_BV: Tensor, sums_BN: Tensor, uniform_B: Tensor) -> Tensor:
    """`invert_cdf` of the weights, which adds up blocks first and then the tokens of one block."""
    cdf_BN = sums_BN.double().cumsum(-1)
    total_B1 = cdf_BN[:, -1:]
    target_B1 = torch.minimum(uniform_B.to(total_B1)[:, None] * total_B1, _just_below(total_B1))
    block_B1 = torch.searchsorted(cdf_BN, target_B1, right=True)
    before_B1 = (cdf_BN.gather(1, block_B1) - sums_BN.gather(1, block_B1)).clamp_(min=0.0)
    index_BI = block_B1 * _BLOCK + torch.arange(_BLOCK, device=weights_BV.device)
    inside_BV = index_BI < weights_BV.shape[-1]
    tokens_BI = weights_BV.gather(1, index_BI.clamp(max=weights_BV.shape[-1] - 1)).double() * inside_BV
    cdf_BI = tokens_BI.cumsum(-1) + before_B1
    # Both sums round: the target must lie between them, or a token of weight zero at either end would be taken.
    target_B1 = torch.maximum(torch.minimum(target_B1, _just_below(cdf_BI[:, -1:])), before_B1)
    return (block_B1 * _BLOCK + torch.searchsorted(cdf_BI, target_B1, right=True)).squeeze(1)


def _just_below(x: Tensor) -> Tensor:
    return torch.nextafter(x, torch.zeros_like(x))


def _is_ahead(weights_BV: Tensor, token_B: Tensor, weight_B: Tensor) -> Tensor:
    """Tokens more probable than `token`; among equals the lower id comes first."""
    index_V = torch.arange(weights_BV.shape[-1], device=weights_BV.device)
    equal_BV = (weights_BV == weight_B[:, None]) & (index_V < token_B[:, None])
    return (weights_BV > weight_B[:, None]) | equal_BV
