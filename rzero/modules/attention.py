"""Attention by torch's fused kernel, or as matrix products where the rounding that a user allows makes these faster.

Shapes: R sequences, Q queries, K keys, D head width, H heads, G heads of keys and values, N = H / G that share one.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

MOST_SCORES = 2**25
"""R x H x Q x K up to which all scores exist at once (128 MB in float32); the fused kernel never holds them."""


def attention(
    query_RHQD: Tensor,
    key_RGKD: Tensor,
    value_RGKD: Tensor,
    *,
    visible_R1QK: Tensor | None,
    dropout: float,
    scale: float | None,
) -> Tensor:
    """Returns softmax(query key^T scale) value, (R, H, Q, D).

    visible_R1QK: may a query see a key? None: those before it and itself, K = Q. scale: None for 1 / sqrt(D).
    """
    if not dropout and _by_products(query_RHQD, keys=key_RGKD.shape[2]):
        return _products(query_RHQD, key_RGKD, value_RGKD, visible_R1QK=visible_R1QK, scale=scale)
    shared = query_RHQD.shape[1] // key_RGKD.shape[1]
    return F.scaled_dot_product_attention(
        query_RHQD,
        key_RGKD.repeat_interleave(shared, dim=1),
        value_RGKD.repeat_interleave(shared, dim=1),
        attn_mask=visible_R1QK,
        is_causal=visible_R1QK is None,
        dropout_p=dropout,
        scale=scale,
    )


def _by_products(query_RHQD: Tensor, *, keys: int) -> bool:
    """On CPUs, under `matmul_precision=medium`: products take bfloat16 factors then, the fused kernel gets slower."""
    return (
        query_RHQD.device.type == "cpu"
        and query_RHQD.dtype == torch.float32
        and torch.get_float32_matmul_precision() == "medium"
        and query_RHQD[..., 0].numel() * keys <= MOST_SCORES
    )


def _products(
    query_RHQD: Tensor, key_RGKD: Tensor, value_RGKD: Tensor, *, visible_R1QK: Tensor | None, scale: float | None
) -> Tensor:
    """Heads that share keys and values stand below one another, so that these are not copied for each."""
    _, heads, queries, width = query_RHQD.shape
    shared = heads // key_RGKD.shape[1]
    if visible_R1QK is None:
        visible_R1QK = torch.ones(queries, queries, dtype=torch.bool, device=query_RHQD.device).tril()[None, None]
    hidden_R1QK = torch.zeros_like(visible_R1QK, dtype=query_RHQD.dtype).masked_fill_(~visible_R1QK, float("-inf"))
    scaled_RHQD = query_RHQD * (width**-0.5 if scale is None else scale)
    stacked_RGYD = scaled_RHQD.unflatten(1, (-1, shared)).flatten(2, 3)  # Y = N x Q
    scores_RHQK = (stacked_RGYD @ key_RGKD.mT).unflatten(2, (shared, queries)).flatten(1, 2)
    weights_RHQK = (scores_RHQK + hidden_R1QK).softmax(dim=-1)
    weights_RGYK = weights_RHQK.unflatten(1, (-1, shared)).flatten(2, 3)
    return (weights_RGYK @ value_RGKD).unflatten(2, (shared, queries)).flatten(1, 2)
