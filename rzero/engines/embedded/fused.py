"""A functional decoder for Llama-like models, written for many short rows on a CPU.

The prompt of a group is read once and its keys and values are kept once: attention takes the scores of all samples of a
prompt against the shared prefix in one matrix product, and each row's own tokens in a batched one; one softmax runs
over both.

Shapes: B rows side by side, P their prompts, L longest prompt, C room for own tokens, E model
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

from rzero.engines.embedded.cohorts import Own, cohorts
from rzero.engines.embedded.fused_weights import LayerWeights, ModelWeights, arrange, shape_of
from rzero.processes.cpu import float32_factors
from rzero.processes.memory import give_back_growth

SPARE_COLUMNS = 0.25
"""Room for own tokens above what a row can need, as a share of that, where rows join: columns that nobody needs any
more are then cut off now and then, not at every step."""
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
}


class FusedDecoder:
    """Decodes with fused weights. `prefill_tokens` bounds the padded tokens read at once, `first_capacity` is the
    number of own tokens room is made for at first (it doubles when used up). weights: what is decoded with."""

    def __init__(self, model: PreTrainedModel, *, prefill_tokens: int, first_capacity: int) -> None:
        self._shape = shape_of(model)
        self._prefill_tokens = prefill_tokens
        self._first_capacity = first_capacity
        self.weights: ModelWeights | None = None

    def load(self, weights: Mapping[str, Tensor]) -> None:
        self.use(arrange(self._shape, weights))

    def use(self, weights: ModelWeights) -> None:
        """Decodes with weights that are arranged already."""
        self.weights = weights

    def start(
        self, prompts: Sequence[Sequence[int]], *, prompt_of_row: Sequence[int], max_new: int
    ) -> tuple[FusedSession, Tensor]:
        assert self.weights is not None, "load() comes before start()"
        session = FusedSession(
            self.weights, prompt_lengths=[len(p) for p in prompts], prompt_of_row=prompt_of_row, max_new=max_new,
            first_capacity=self._first_capacity, prefill_tokens=self._prefill_tokens,
        )  # fmt: skip
        return session, session.read(prompts)


@dataclass(slots=True)
class _LayerCache:
    """Prefix keys and values per prompt and key head, own ones per row and key head."""

    prefix_k_ODL: Tensor  # O = P * J
    prefix_v_OLD: Tensor
    own_k_RDC: Tensor
    own_v_RCD: Tensor


@dataclass(frozen=True, slots=True)
class _Seen:
    """What new tokens attend to: own tokens, rows from the first to the last, and what is added to prefix scores."""

    own: Sequence[Own]
    prefix_bias_O1L: Tensor


class FusedSession:
    """Rows side by side. Rows of the same prompt stay next to each other.

    Each of the `own` caches has a column per step, and may have rows and columns to spare. A row that joined at a later
    step has nothing in the columns before; those that no row has anything in are cut off when room is needed.
    """

    def __init__(
        self, weights: ModelWeights, *, prompt_lengths: Sequence[int], prompt_of_row: Sequence[int], max_new: int,
        first_capacity: int, prefill_tokens: int,
    ) -> None:  # fmt: skip
        self._w = weights
        self._device = weights.embedding_VE.device
        self._max_new = max_new
        self._prefill_tokens = prefill_tokens
        self._time = 0
        self._length_P = torch.tensor(prompt_lengths, device=self._device)
        self._start_P = torch.zeros_like(self._length_P)  # the step at which the rows of a prompt joined
        self._prompt_B = torch.as_tensor(prompt_of_row, device=self._device)
        self._turns = _turns(weights, length=max(prompt_lengths) + max_new)
        self._act = _ACTIVATIONS[weights.activation]
        self._pad()
        self._caches = [self._empty_cache(capacity=min(max_new, first_capacity)) for _ in weights.layers]
        self._index_rows()

    # ---- prompts -------------------------------------------------------------------------------------------------

    def read(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Fills the prefix caches and returns the logits [B, V] behind the last token of each row's prompt."""
        longest = int(self._length_P.max())
        at_once = max(1, self._prefill_tokens // longest)
        parts = []
        for first in range(0, len(prompts), at_once):
            chunk = prompts[first : first + at_once]
            width = max(len(prompt) for prompt in chunk)
            ids_PL = torch.tensor([[*p, *([0] * (width - len(p)))] for p in chunk], device=self._device)
            hidden_PLE = self._read_chunk(ids_PL, first=first)
            last_P = self._length_P[first : first + len(chunk)] - 1
            logits_PV = self.head(hidden_PLE[torch.arange(len(chunk)), last_P])
            rows_B = (first <= self._prompt_B) & (self._prompt_B < first + len(chunk))
            # a copy, since the head may write the next chunk's logits over these
            parts.append(logits_PV[self._prompt_B[rows_B] - first])
        return torch.cat(parts)

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
        with float32_factors(self._device):  # the fused kernel gets slower by rounding
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, scale=1.0)
        x = self._finish_layer(x, mixed.transpose(1, 2).reshape(n * length, -1), layer)
        return x.view(n, length, -1)

    # ---- own tokens ----------------------------------------------------------------------------------------------

    def step(self, token_B: Tensor) -> Tensor:
        if self._time == self._columns:
            self._make_room(rows=len(token_B))
        w, rows = self._w, len(token_B) * self._w.key_heads
        x = self.embed(token_B)
        position_B = (self._length_P + self._time - self._start_P)[self._prompt_B]
        turns = {name: turn[position_B] for name, turn in self._turns.items()}
        seen = {window: self._seen(window) for window in {layer.window for layer in w.layers}}
        for layer, cache in zip(w.layers, self._caches, strict=True):
            q_BHD, k_BJD, v_BJD = self._project(x, layer, turns[layer.rope])
            cache.own_k_RDC[:rows, :, self._time] = k_BJD.reshape(-1, w.head_width)
            cache.own_v_RCD[:rows, self._time] = v_BJD.reshape(-1, w.head_width)
            with float32_factors(self._device):  # there is a column more at each step
                mixed = self._attend(q_BHD, cache, seen[layer.window])
            x = self._finish_layer(x, mixed, layer)
        self._time += 1
        return self.head(x)

    def _attend(self, q_BHD: Tensor, cache: _LayerCache, seen: _Seen) -> Tensor:
        """Attention of one new token per row over prefix and own tokens; returns [B, H * D]."""
        w = self._w
        rows, groups = q_BHD.shape[0] * w.key_heads, w.query_heads // w.key_heads
        prompts, prefix = self._pad_bias_PL.shape
        q_RAD = q_BHD.reshape(rows, groups, w.head_width)
        q_grid = q_RAD.index_select(0, self._grid_rows).view(prompts * w.key_heads, -1, w.head_width)
        prefix_scores = torch.baddbmm(seen.prefix_bias_O1L, q_grid, cache.prefix_k_ODL)
        prefix_scores = prefix_scores.view(-1, groups, prefix).index_select(0, self._grid_of_row)
        prefix_shares, mixed = [], []
        for own in seen.own:
            own_scores = torch.bmm(q_RAD[own.rows_R], cache.own_k_RDC[own.rows_R, :, own.columns])
            if own.bias_R1C is not None:
                own_scores += own.bias_R1C
            shares = torch.cat([prefix_scores[own.rows_R], own_scores], -1).softmax(-1)
            mixed.append(torch.bmm(shares[..., prefix:], cache.own_v_RCD[own.rows_R, own.columns]))
            prefix_shares.append(shares[..., :prefix])
        mixed_RAD, prefix_shares_RAL = _joined(mixed), _joined(prefix_shares)
        grid = prefix_shares_RAL.index_select(0, self._grid_rows).view(prompts * w.key_heads, -1, prefix)
        prefix_mixed = torch.bmm(grid, cache.prefix_v_OLD).view(-1, groups, w.head_width)
        mixed_RAD += prefix_mixed.index_select(0, self._grid_of_row)
        return mixed_RAD.view(q_BHD.shape[0], -1)

    def _seen(self, window: int | None) -> _Seen:
        """What the next token of each row attends to in a layer with this window."""
        own = [cohort.own(self._start_R, end=self._time + 1, window=window) for cohort in self._cohorts]
        return _Seen(own=own, prefix_bias_O1L=self._prefix_bias(window))

    def _prefix_bias(self, window: int | None) -> Tensor:
        """[O, 1, L]: minus infinity at padding and at prompt tokens that have left the window."""
        bias_PL = self._pad_bias_PL
        prefix = bias_PL.shape[1]
        position_P = self._length_P + self._time - self._start_P
        if window is not None and int(position_P.max()) >= window:
            left_PL = torch.arange(prefix, device=self._device) <= (position_P - window)[:, None]
            bias_PL = bias_PL.masked_fill(left_PL, -torch.inf)
        return bias_PL[:, None].expand(-1, self._w.key_heads, -1).reshape(-1, 1, prefix)

    # ---- rows that leave and rows that join ----------------------------------------------------------------------

    def keep(self, kept_Y: Tensor) -> None:
        self._prompt_B = self._prompt_B[kept_Y]
        kept_R = self._by_head(kept_Y)
        written = slice(self._oldest, self._time)
        for cache in self._caches:
            cache.own_k_RDC[: len(kept_R), :, written] = cache.own_k_RDC[kept_R, :, written]
            cache.own_v_RCD[: len(kept_R), written] = cache.own_v_RCD[kept_R, written]
        self._index_rows()

    def join(self, prompts: Sequence[Sequence[int]], *, prompt_of_row: Sequence[int]) -> Tensor:
        fresh = FusedSession(
            self._w, prompt_lengths=[len(p) for p in prompts], prompt_of_row=prompt_of_row, max_new=self._max_new,
            first_capacity=1, prefill_tokens=self._prefill_tokens,
        )  # fmt: skip
        logits_BV = fresh.read(prompts)
        before, rows = len(self._prompt_B), len(self._prompt_B) + len(fresh._prompt_B)
        if rows * self._w.key_heads > len(self._caches[0].own_k_RDC):
            self._make_room(rows=rows)
        present_P, self._prompt_B = self._prompt_B.unique(return_inverse=True)
        self._prompt_B = torch.cat([self._prompt_B, fresh._prompt_B + len(present_P)])
        self._length_P = torch.cat([self._length_P[present_P], fresh._length_P])
        self._start_P = torch.cat([self._start_P[present_P], torch.full_like(fresh._length_P, self._time)])
        self._turns = max(self._turns, fresh._turns, key=lambda turns: len(next(iter(turns.values()))))
        self._pad()
        prefix, kept_O, others = self._pad_bias_PL.shape[1], self._by_head(present_P), self._w.key_heads * before
        for cache, other in zip(self._caches, fresh._caches, strict=True):
            cache.prefix_k_ODL = _stacked(cache.prefix_k_ODL[kept_O], other.prefix_k_ODL, inner=(-1, prefix))
            cache.prefix_v_OLD = _stacked(cache.prefix_v_OLD[kept_O], other.prefix_v_OLD, inner=(prefix, -1))
            # no weight falls on what is in these columns, but it must be finite
            cache.own_k_RDC[others:, :, self._oldest : self._time] = 0.0
            cache.own_v_RCD[others:, self._oldest : self._time] = 0.0
        self._index_rows()
        give_back_growth()  # a wider cache of each layer leaves a hole where the narrower one was
        return logits_BV

    @property
    def _oldest(self) -> int:
        """The step at which the first of the rows joined."""
        return self._cohorts[0].oldest

    @property
    def _columns(self) -> int:
        return self._caches[0].own_k_RDC.shape[2]

    def _make_room(self, *, rows: int) -> None:
        """Makes room for so many rows and for another step: columns that nobody needs are cut off, and others come."""
        span = self._time - self._oldest
        most = self._max_new if self._oldest == 0 else int(self._max_new * (1.0 + SPARE_COLUMNS))
        columns = max(self._columns, min(2 * span, most))
        used, needed = (self._w.key_heads * count for count in (len(self._prompt_B), rows))
        for cache in self._caches:
            k_RDC = cache.own_k_RDC[:used, :, self._oldest : self._time].clone()
            v_RCD = cache.own_v_RCD[:used, self._oldest : self._time].clone()
            if needed > len(cache.own_k_RDC) or columns > cache.own_k_RDC.shape[2]:
                cache.own_k_RDC = k_RDC.new_empty(needed, k_RDC.shape[1], columns)
                cache.own_v_RCD = v_RCD.new_empty(needed, columns, v_RCD.shape[2])
            cache.own_k_RDC[:used, :, :span] = k_RDC
            cache.own_v_RCD[:used, :span] = v_RCD
        self._start_P -= self._oldest
        self._time = span
        self._find_cohorts()

    def _by_head(self, index: Tensor) -> Tensor:
        """Where the key heads of some rows, or prompts, are, among those of all."""
        heads = self._w.key_heads
        return (index[:, None] * heads + torch.arange(heads, device=self._device)).reshape(-1)

    def _pad(self) -> None:
        """Minus infinity behind the last token of each prompt."""
        padded_PL = torch.arange(int(self._length_P.max()), device=self._device) >= self._length_P[:, None]
        self._pad_bias_PL = torch.zeros(padded_PL.shape, device=self._device).masked_fill(padded_PL, -torch.inf)

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
        self._find_cohorts()

    def _find_cohorts(self) -> None:
        start_B = self._start_P[self._prompt_B]
        self._start_R = start_B.repeat_interleave(self._w.key_heads)
        self._cohorts = cohorts(start_B.tolist(), now=self._time, heads=self._w.key_heads)

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

    def _empty_cache(self, *, capacity: int) -> _LayerCache:
        w, (prompts, prefix) = self._w, self._pad_bias_PL.shape
        rows, slots, width = len(self._prompt_B) * w.key_heads, prompts * w.key_heads, w.head_width
        like = w.embedding_VE.new_empty(0, dtype=w.dtype)
        # Padded prefix slots have weight zero; they must be finite all the same, since 0 * nan is nan.
        return _LayerCache(
            prefix_k_ODL=like.new_zeros(slots, width, prefix),
            prefix_v_OLD=like.new_zeros(slots, prefix, width),
            own_k_RDC=like.new_empty(rows, width, capacity),
            own_v_RCD=like.new_empty(rows, capacity, width),
        )


def _normalise(x: Tensor, eps: float) -> Tensor:
    """x over its root mean square along the last dimension; the gain is part of the weights."""
    width = x.shape[-1]
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return x * (norm.square_().mul_(1.0 / width).add_(eps).rsqrt_())


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _turns(weights: ModelWeights, *, length: int) -> dict[str, Tensor]:
    """Rotations exp(i * position * frequency) * scale as complex numbers [length, D/2], per rope."""
    turns = {}
    for name, (frequency, scale) in weights.frequencies.items():
        angle = torch.outer(torch.arange(length, device=frequency.device, dtype=torch.float), frequency)
        turns[name] = torch.polar(torch.full_like(angle, scale), angle)
    return turns


def _stacked(one: Tensor, other: Tensor, *, inner: tuple[int, int]) -> Tensor:
    """Both, one behind the other, cut off or filled with zeros to the inner shape; -1: as it is."""
    rows, width = (own if size < 0 else size for own, size in zip(one.shape[1:], inner, strict=True))
    out = one.new_zeros(len(one) + len(other), rows, width)
    for part, place in ((one, out[: len(one)]), (other, out[len(one) :])):
        place[:, : part.shape[1], : part.shape[2]] = part[:, :rows, :width]
    return out


def _band(length: int, window: int, device: torch.device) -> Tensor:
    """True where query i sees key j: i - window < j <= i."""
    i, j = torch.arange(length, device=device)[:, None], torch.arange(length, device=device)
    return (j <= i) & (j > i - window)
