"""Drawing one token per row from logits, with random numbers that do not depend on the batch.

Every uniform is a hash of (seed, prompt index, sample index, step, attempt). So a completion is the same whatever other
rows share its batch, in whatever order they finish.

Shapes: B rows, V vocabulary, K candidates.
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
_ATTEMPTS = 64  # counter stride per step; more redraws than that reach into later steps, harmlessly


def row_keys(seed: int, *, prompt_index: NDArray[np.int64], sample_index: NDArray[np.int64]) -> NDArray[np.uint64]:
    """One 64-bit key per row, from the seed of the call and the row's place in it."""
    key = _mix(np.full(prompt_index.shape, seed % 2**64, dtype=np.uint64))
    key = _mix(key ^ prompt_index.astype(np.uint64))
    return _mix(key ^ sample_index.astype(np.uint64))


def uniforms(keys: NDArray[np.uint64], *, step: int, attempt: int) -> NDArray[np.float32]:
    """One number in [0, 1) per key, a multiple of 2**-24, for the given step and redraw."""
    offset = np.uint64((step * _ATTEMPTS + attempt) * int(_GOLDEN) % 2**64)
    return (_mix(keys + offset) >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)


def _mix(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    state = state + _GOLDEN
    state = (state ^ (state >> np.uint64(30))) * _MIX_1
    state = (state ^ (state >> np.uint64(27))) * _MIX_2
    return state ^ (state >> np.uint64(31))


class TokenSampler:
    """Draws tokens for the rows of one wave. `keep` drops rows as they finish.

    Order as everywhere: temperature, then top-k, then top-p over what top-k left. The log-prob (nats) of a drawn token
    is that of the temperature-scaled distribution *before* truncation, which is what the training model can recompute.
    Temperature 0 takes the most probable token and reports its log-prob at temperature 1.
    """

    def __init__(self, sampling: Sampling, *, keys: NDArray[np.uint64]) -> None:
        self._sampling = sampling
        self._keys = keys

    def keep(self, kept: NDArray[np.int64]) -> None:
        self._keys = self._keys[kept]

    def draw(self, logits_BV: Tensor, *, step: int) -> tuple[Tensor, Tensor]:
        """Token ids and log-probs, both [B]. Overwrites `logits_BV`."""
        sampling = self._sampling
        if sampling.temperature not in (0.0, 1.0):
            logits_BV.mul_(1.0 / sampling.temperature)
        peak_B, best_B = logits_BV.max(-1)
        weights_BV = logits_BV.sub_(peak_B[:, None]).exp_()  # unnormalised probabilities, at most 1
        mass_B = weights_BV.sum(-1)
        if sampling.temperature == 0.0:
            return best_B, -mass_B.log()
        if sampling.top_k:
            token_B, weight_B = self._draw_sorted(weights_BV, mass_B, step=step)
        else:
            token_B, weight_B = self._draw_nucleus(weights_BV, mass_B, step=step)
        return token_B, weight_B.log() - mass_B.log()

    def _draw_sorted(self, weights_BV: Tensor, mass_B: Tensor, *, step: int) -> tuple[Tensor, Tensor]:
        """Top-k (then top-p) by sorting the k largest weights."""
        k = min(self._sampling.top_k, weights_BV.shape[-1])
        weights_BK, ids_BK = weights_BV.topk(k, dim=-1)
        cdf_BK = weights_BK.cumsum(-1)
        if self._sampling.top_p < 1.0:
            before_BK = cdf_BK - weights_BK
            # A token stays when the mass in front of it has not reached top_p: the first token always does.
            weights_BK = weights_BK.masked_fill(before_BK >= self._sampling.top_p * cdf_BK[:, -1:], 0.0)
            cdf_BK = weights_BK.cumsum(-1)
        choice_B = invert_cdf(cdf_BK, self._uniforms(step=step, attempt=0, rows=None))
        return (
            ids_BK.gather(1, choice_B[:, None]).squeeze(1),
            weights_BK.gather(1, choice_B[:, None]).squeeze(1),
        )

    def _draw_nucleus(self, weights_BV: Tensor, mass_B: Tensor, *, step: int) -> tuple[Tensor, Tensor]:
        """Top-p without sorting: draw, and draw again where the token lies outside the nucleus.

        A token is outside when the tokens before it in order of probability already hold top_p of the mass. Then every
        token behind it is outside too, so all of them are struck out before the next draw: the result is an exact draw
        from the nucleus, and at most a few rows need a second round.
        """
        token_B = invert_cdf(weights_BV.cumsum(-1), self._uniforms(step=step, attempt=0, rows=None))
        weight_B = weights_BV.gather(1, token_B[:, None]).squeeze(1)
        if self._sampling.top_p == 1.0:
            return token_B, weight_B
        target_B = self._sampling.top_p * mass_B
        rows = self._outside(weights_BV, token_B, weight_B, target_B).nonzero().squeeze(1)
        attempt = 1
        while rows.numel():
            candidates_RV = weights_BV[rows]
            candidates_RV = candidates_RV * ~_at_or_behind(candidates_RV, token_B[rows], weight_B[rows])
            uniform_R = self._uniforms(step=step, attempt=attempt, rows=rows)
            token_B[rows] = token_R = invert_cdf(candidates_RV.cumsum(-1), uniform_R)
            weight_B[rows] = weight_R = candidates_RV.gather(1, token_R[:, None]).squeeze(1)
            rows = rows[self._outside(weights_BV[rows], token_R, weight_R, target_B[rows])]
            attempt += 1
        return token_B, weight_B

    def _outside(self, weights_BV: Tensor, token_B: Tensor, weight_B: Tensor, target_B: Tensor) -> Tensor:
        before_B = (weights_BV * ~_at_or_behind(weights_BV, token_B, weight_B)).sum(-1)
        return before_B >= target_B

    def _uniforms(self, *, step: int, attempt: int, rows: Tensor | None) -> Tensor:
        keys = self._keys if rows is None else self._keys[rows.cpu().numpy()]
        return torch.from_numpy(uniforms(keys, step=step, attempt=attempt))


def invert_cdf(cdf_BV: Tensor, uniform_B: Tensor) -> Tensor:
    """The first index whose cumulative weight exceeds `uniform` times the total; never an index of weight zero."""
    total_B = cdf_BV[:, -1]
    # Rounding may lift the product to the total itself, which no entry exceeds.
    target_B = torch.minimum(uniform_B.to(total_B) * total_B, torch.nextafter(total_B, torch.zeros_like(total_B)))
    return torch.searchsorted(cdf_BV, target_B[:, None], right=True).squeeze(1)


def _at_or_behind(weights_BV: Tensor, token_B: Tensor, weight_B: Tensor) -> Tensor:
    """Tokens that are no more probable than `token`; among equals the lower id comes first."""
    index_V = torch.arange(weights_BV.shape[-1], device=weights_BV.device)
    equal_BV = (weights_BV == weight_B[:, None]) & (index_V >= token_B[:, None])
    return (weights_BV < weight_B[:, None]) | equal_BV
