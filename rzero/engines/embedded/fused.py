"""A functional decoder for Llama-like models, written for many short rows on a CPU.

The prompt of a group is read once and its keys and values are kept once: attention takes the scores of all samples of a
prompt against the shared prefix in one matrix product, and each row's own tokens in a batched one; one softmax runs
over both.

Shapes: B rows of the wave, P its prompts, L longest prompt, C room for own tokens, E model
width, H query heads, J key heads, A = H / J, D head width, V vocabulary, R = B * J, O = P * J, Y rows that are kept, W
tokens of several rows side by side.
"""

# ruff: noqa: N815 (fields carry their shape as a suffix, like every other tensor name)

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from rzero.engines.embedded.fused_weights import LayerWeights, ModelWeights, arrange

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
}


class FusedDecoder:
    """Decodes with fused weights. `prefill_tokens` bounds the padded tokens read at once, `first_capacity` is the
    number of own tokens room is made for at first (it doubles when used up). weights: what is decoded with."""

    def __init__(self, model: PreTrainedModel, *, prefill_tokens: int, first_capacity: int) -> None:
        self._model = model
        self._prefill_tokens = prefill_tokens
        self._first_capacity = first_capacity
        self.weights: ModelWeights | None = None

    def load(self, weights: Mapping[str, Tensor]) -> None:
        self.use(arrange(self._model, weights))

    def use(self, weights: ModelWeights) -> None:
        """Decodes with weights that are arranged already."""
        self.weights = weights

    def start(
        self, prompts: Sequence[Sequence[int]], *, prompt_of_row: Sequence[int], max_new: int
    ) -> tuple[FusedSession, Tensor]:
        assert self.weights is not None, "load() comes before start()"
        session = FusedSession(
            self.weights, prompt_lengths=[len(p) for p in prompts], prompt_of_row=prompt_of_row, max_new=max_new,
            first_capacity=self._first_capacity,
        )  # fmt: skip
        logits_PV = session.read(prompts, prefill_tokens=self._prefill_tokens)
        return session, logits_PV[torch.as_tensor(prompt_of_row)]


@dataclass(slots=True)
class _LayerCache:
    """Prefix keys and values per prompt and key head, own ones per row and key head."""

    prefix_k_ODL: Tensor  # O = P * J
    prefix_v_OLD: Tensor
    own_k_RDC: Tensor
    own_v_RCD: Tensor


class FusedSession:
    """One wave of rows. Rows of the same prompt stay next to each other."""

    def __init__(
        self, weights: ModelWeights, *, prompt_lengths: Sequence[int], prompt_of_row: Sequence[int], max_new: int,
        first_capacity: int,
    ) -> None:  # fmt: skip
        self._w = weights
        self._device = weights.embedding_VE.device
        self._max_new = max_new
        self._time = 0
        self._capacity = min(max_new, first_capacity)
        self._length_P = torch.tensor(prompt_lengths, device=self._device)
        self._prompt_B = torch.as_tensor(prompt_of_row, device=self._device)
        self._turns = _turns(weights, length=max(prompt_lengths) + max_new)
        self._act = _ACTIVATIONS[weights.activation]
        padded_PL = torch.arange(max(prompt_lengths), device=self._device) >= self._length_P[:, None]
        self._pad_bias_PL = torch.zeros(padded_PL.shape, device=self._device).masked_fill(padded_PL, -torch.inf)
        self._caches: list[_LayerCache] = [self._empty_cache() for _ in weights.layers]
        self._index_rows()

    # ---- prompts -------------------------------------------------------------------------------------------------

    def read(self, prompts: Sequence[Sequence[int]], *, prefill_tokens: int) -> Tensor:
        """Fills the prefix caches and returns the logits [P, V] behind the last token of each prompt."""
        longest = int(self._length_P.max())
        at_once = max(1, prefill_tokens // longest)
        logits = []
        for first in range(0, len(prompts), at_once):
            chunk = prompts[first : first + at_once]
            width = max(len(prompt) for prompt in chunk)
            ids_PL = torch.tensor([[*p, *([0] * (width - len(p)))] for p in chunk], device=self._device)
            hidden_PLE = self._read_chunk(ids_PL, first=first)
            last_P = self._length_P[first : first + len(chunk)] - 1
            logits.append(self.head(hidden_PLE[torch.arange(len(chunk)), last_P]))
        return torch.cat(logits)

    def _read_chunk(self, ids_PL: Tensor, *, first: int) -> Tensor:
        x_PLE = self.embed(ids_PL)
        for number in range(len(self._caches)):
            x_PLE = self.read_layer(number, x_PLE, first=first)
        return x_PLE

    def embed(self, ids: Tensor) -> Tensor:
        """Returns what the first layer reads, one dimension more than `ids`."""
        return F.embedding(ids, self._w.embedding_VE).to(self._w.dtype)

    def read_layer(self, number: int, x_PLE: Tensor, *, first: int = 0) -> Tensor:
        """One layer over prompts, of which the one in front is number `first`; fills their caches."""
        w, layer, cache = self._w, self._w.layers[number], self._caches[number]
        n, length, _ = x_PLE.shape
        x = x_PLE.view(n * length, -1)
        turn = self._turns[layer.rope][:length].expand(n, length, -1).reshape(n * length, -1)
        q, k, v = (t.view(n, length, -1, w.head_width).transpose(1, 2) for t in self._project(x, layer, turn))
        slots = slice(first * w.key_heads, (first + n) * w.key_heads)
        cache.prefix_k_ODL[slots, :, :length] = k.reshape(-1, length, w.head_width).transpose(1, 2)
        cache.prefix_v_OLD[slots, :length] = v.reshape(-1, length, w.head_width)
        mask = _band(length, layer.window, self._device) if layer.window and length > layer.window else None
        groups = w.query_heads // w.key_heads
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, scale=1.0)
        x = self._finish_layer(x, mixed.transpose(1, 2).reshape(n * length, -1), layer)
        return x.view(n, length, -1)

    # ---- own tokens ----------------------------------------------------------------------------------------------

    def step(self, token_B: Tensor) -> Tensor:
        if self._time == self._capacity:
            self._grow()
        w = self._w
        x = self.embed(token_B)
        position_B = self._length_P[self._prompt_B] + self._time
        turns = {name: turn[position_B] for name, turn in self._turns.items()}
        for layer, cache in zip(w.layers, self._caches, strict=True):
            q_BHD, k_BJD, v_BJD = self._project(x, layer, turns[layer.rope])
            cache.own_k_RDC[:, :, self._time] = k_BJD.reshape(-1, w.head_width)
            cache.own_v_RCD[:, self._time] = v_BJD.reshape(-1, w.head_width)
            x = self._finish_layer(x, self._attend(q_BHD, cache, layer.window), layer)
        self._time += 1
        return self.head(x)

    def _attend(self, q_BHD: Tensor, cache: _LayerCache, window: int | None) -> Tensor:
        """Attention of one new token per row over prefix and own tokens; returns [B, H * D]."""
        w = self._w
        rows, groups = q_BHD.shape[0] * w.key_heads, w.query_heads // w.key_heads
        prompts, prefix = self._pad_bias_PL.shape
        first = 0 if window is None else max(0, self._time + 1 - window)
        own = slice(first, self._time + 1)
        q_RAD = q_BHD.reshape(rows, groups, w.head_width)
        q_grid = q_RAD.index_select(0, self._grid_rows).view(prompts * w.key_heads, -1, w.head_width)
        prefix_scores = torch.baddbmm(self._prefix_bias(window), q_grid, cache.prefix_k_ODL)
        prefix_scores = prefix_scores.view(-1, groups, prefix).index_select(0, self._grid_of_row)
        own_scores = torch.bmm(q_RAD, cache.own_k_RDC[:, :, own])
        shares = torch.cat([prefix_scores, own_scores], -1).softmax(-1)
        mixed_RAD = torch.bmm(shares[..., prefix:], cache.own_v_RCD[:, own])
        grid = shares[..., :prefix].index_select(0, self._grid_rows).view(prompts * w.key_heads, -1, prefix)
        prefix_mixed = torch.bmm(grid, cache.prefix_v_OLD).view(-1, groups, w.head_width)
        mixed_RAD += prefix_mixed.index_select(0, self._grid_of_row)
        return mixed_RAD.view(q_BHD.shape[0], -1)

    def _prefix_bias(self, window: int | None) -> Tensor:
        """[O, 1, L]: minus infinity at padding and at prompt tokens that have left the window."""
        bias_PL = self._pad_bias_PL
        prefix = bias_PL.shape[1]
        if window is not None and int(self._length_P.max()) + self._time >= window:
            oldest_P = self._length_P + self._time - window
            left_PL = torch.arange(prefix, device=self._device) <= oldest_P[:, None]
            bias_PL = bias_PL.masked_fill(left_PL, -torch.inf)
        return bias_PL[:, None].expand(-1, self._w.key_heads, -1).reshape(-1, 1, prefix)

    def keep(self, kept_Y: Tensor) -> None:
        w = self._w
        self._prompt_B = self._prompt_B[kept_Y]
        kept_R = (kept_Y[:, None] * w.key_heads + torch.arange(w.key_heads, device=self._device)).reshape(-1)
        for cache in self._caches:
            cache.own_k_RDC[: len(kept_R), :, : self._time] = cache.own_k_RDC[kept_R, :, : self._time]
            cache.own_v_RCD[: len(kept_R), : self._time] = cache.own_v_RCD[kept_R, : self._time]
            cache.own_k_RDC = cache.own_k_RDC[: len(kept_R)]
            cache.own_v_RCD = cache.own_v_RCD[: len(kept_R)]
        self._index_rows()

    def _grow(self) -> None:
        capacity = min(self._max_new, 2 * self._capacity)
        for cache in self._caches:
            rows, width, _ = cache.own_k_RDC.shape
            k_RDC, v_RCD = (
                cache.own_k_RDC.new_empty(rows, width, capacity),
                cache.own_v_RCD.new_empty(rows, capacity, width),
            )
            k_RDC[:, :, : self._time] = cache.own_k_RDC[:, :, : self._time]
            v_RCD[:, : self._time] = cache.own_v_RCD[:, : self._time]
            cache.own_k_RDC, cache.own_v_RCD = k_RDC, v_RCD
        self._capacity = capacity

    def _index_rows(self) -> None:
        """Maps rows to a grid of prompts x key heads x samples, the shape of the shared product, and back."""
        heads = self._w.key_heads
        count_P = torch.bincount(self._prompt_B, minlength=len(self._length_P))
        most = int(count_P.max())
        first_P = count_P.cumsum(0) - count_P
        place_B = torch.arange(len(self._prompt_B), device=self._device) - first_P[self._prompt_B]
        head_J = torch.arange(heads, device=self._device)
        self._grid_of_row = ((self._prompt_B[:, None] * heads + head_J) * most + place_B[:, None]).reshape(-1)
        self._grid_rows = torch.zeros(len(count_P) * heads * most, dtype=torch.long, device=self._device)
        self._grid_rows[self._grid_of_row] = torch.arange(len(self._grid_of_row), device=self._device)

    # ---- shared by both ------------------------------------------------------------------------------------------

    def _project(self, x_WE: Tensor, layer: LayerWeights, turn_WD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated queries, rotated keys and values, each [W, heads, D], for W tokens."""
        w = self._w
        qkv = layer.qkv(_normalise(x_WE, w.norm_eps))
        qkv_WHD = qkv.view(len(x_WE), -1, w.head_width)
        turned = w.query_heads + w.key_heads
        qk_WHD = qkv_WHD[:, :turned]
        if layer.qk_gain_HD is not None:
            qk_WHD = _normalise(qk_WHD, w.norm_eps) * layer.qk_gain_HD
        pairs = torch.view_as_complex(qk_WHD.reshape(len(x_WE), turned, -1, 2))
        qk_WHD = torch.view_as_real(pairs * turn_WD[:, None]).flatten(-2)
        return qk_WHD[:, : w.query_heads], qk_WHD[:, w.query_heads :], qkv_WHD[:, turned:]

    def _finish_layer(self, x_WE: Tensor, mixed: Tensor, layer: LayerWeights) -> Tensor:
        eps = self._w.norm_eps
        update = layer.out(mixed)
        if layer.attention_gain_E is not None:
            update = _normalise(update, eps) * layer.attention_gain_E
        x_WE = x_WE + update
        gate, up = layer.gate_up(_normalise(x_WE, eps)).chunk(2, -1)
        update = layer.down(self._act(gate).mul_(up))
        if layer.feed_forward_gain_E is not None:
            update = _normalise(update, eps) * layer.feed_forward_gain_E
        return x_WE + update

    def head(self, x_BE: Tensor) -> Tensor:
        """Returns the logits [B, V] behind the last layer."""
        logits_BV = self._w.head(_normalise(x_BE, self._w.norm_eps))
        cap = self._w.logit_cap
        return logits_BV if cap is None else torch.tanh(logits_BV / cap) * cap

    def _empty_cache(self) -> _LayerCache:
        w, (prompts, prefix) = self._w, self._pad_bias_PL.shape
        rows, slots, width = len(self._prompt_B) * w.key_heads, prompts * w.key_heads, w.head_width
        like = w.embedding_VE.new_empty(0, dtype=w.dtype)
        # Padded prefix slots have weight zero; they must be finite all the same, since 0 * nan is nan.
        return _LayerCache(
            prefix_k_ODL=like.new_zeros(slots, width, prefix),
            prefix_v_OLD=like.new_zeros(slots, prefix, width),
            own_k_RDC=like.new_empty(rows, width, self._capacity),
            own_v_RCD=like.new_empty(rows, self._capacity, width),
        )


def _normalise(x: Tensor, eps: float) -> Tensor:
    """x over its root mean square along the last dimension; the gain is part of the weights."""
    width = x.shape[-1]
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return x * (norm.square_().mul_(1.0 / width).add_(eps).rsqrt_())


def _turns(weights: ModelWeights, *, length: int) -> dict[str, Tensor]:
    """Rotations exp(i * position * frequency) * scale as complex numbers [length, D/2], per rope."""
    turns = {}
    for name, (frequency, scale) in weights.frequencies.items():
        angle = torch.outer(torch.arange(length, device=frequency.device, dtype=torch.float), frequency)
        turns[name] = torch.polar(torch.full_like(angle, scale), angle)
    return turns


def _band(length: int, window: int, device: torch.device) -> Tensor:
    """True where query i sees key j: i - window < j <= i."""
    i, j = torch.arange(length, device=device)[:, None], torch.arange(length, device=device)
    return (j <= i) & (j > i - window)
