"""Completions of one prompt behind one copy of it: the prompt goes through the model once, not once a completion.

The tokens of a micro-batch stand in one row without padding, each distinct prompt once and then every completion; all
linear layers see just these. Attention is told which tokens belong together (`SharedPrompts`), reads their queries,
keys and values out of that row and computes sequences of similar length together.

Shapes: B completions of a micro-batch, P distinct prompts, T padded positions of one (prompt included), N tokens of the
packed row; R sequences attended to together, C tokens of the longest of them, L tokens of their longest prompt, K = L+C
keys; H heads, D numbers of a head, X = H x D.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

ATTENTION = "shared_prompts"
"""The name under which transformers knows the attention of this file."""

_WITHOUT_EFFECT = {"position_ids", "use_cache", "output_attentions", "output_hidden_states"}


def causal_lm_of(model: Any) -> Any:
    """The transformers model inside an adapter wrapper, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def make_ready(model: Any) -> None:
    """Give a model the attention that `SharedPrompts` needs; without them it goes on as before, with SDPA.

    Raises ValueError when the model uses another implementation than SDPA.
    """
    causal_lm = causal_lm_of(model)
    now = causal_lm.config.get_text_config()._attn_implementation
    if now == ATTENTION:
        return
    if now != "sdpa":
        raise ValueError(f"share_prompts needs policy.attn_implementation=sdpa, got {now}")
    causal_lm.set_attn_implementation(ATTENTION)


class SharedPrompts:
    """Where each token of a padded micro-batch stands in the packed row, and what it attends to.

    `ids_1N`, `positions_1N`: input of the model. `place_BT`: index into N of each token that is run; the last
    token of a completion predicts nothing and is left out.
    """

    def __init__(self, input_ids_BT: Tensor, *, completion_mask_BT: Tensor, prompts: Sequence[int]) -> None:
        """`prompts`: equal numbers (B,) say that rows have the same prompt. Raises ValueError when they do not."""
        device = input_ids_BT.device
        prompt_B = (completion_mask_BT != 0).int().argmax(dim=1)
        tail_B = (completion_mask_BT != 0).sum(dim=1) - 1
        names = list(dict.fromkeys(prompts))
        which_B = torch.tensor([names.index(name) for name in prompts], device=device)
        first_P = torch.tensor([list(prompts).index(name) for name in names], device=device)
        column_T = torch.arange(input_ids_BT.shape[1], device=device)
        in_prompt_BT = column_T < prompt_B[:, None]
        same_BT = (input_ids_BT == input_ids_BT[first_P[which_B]]) | ~in_prompt_BT
        if not bool(same_BT.all() & (prompt_B == prompt_B[first_P[which_B]]).all()):
            raise ValueError("rows that should share a prompt have different ones")

        prompt_P = prompt_B[first_P]
        start_P = prompt_P.cumsum(0) - prompt_P
        start_B = prompt_P.sum() + tail_B.cumsum(0) - tail_B
        self.place_BT = torch.where(
            in_prompt_BT, start_P[which_B][:, None] + column_T, start_B[:, None] + column_T - prompt_B[:, None]
        )
        run_BT = column_T < (prompt_B + tail_B)[:, None]
        total = int(prompt_P.sum() + tail_B.sum())
        self.ids_1N = input_ids_BT.new_zeros(1, total)
        self.ids_1N[0, self.place_BT[run_BT]] = input_ids_BT[run_BT]
        self.positions_1N = torch.zeros_like(self.ids_1N)
        self.positions_1N[0, self.place_BT[run_BT]] = column_T.expand_as(run_BT)[run_BT]

        nothing_P = torch.zeros_like(prompt_P)
        self._blocks = [
            *_blocks(start_P, prompt_P, prompt_start_R=nothing_P, prompt_R=nothing_P),
            *_blocks(start_B, tail_B, prompt_start_R=start_P[which_B], prompt_R=prompt_B),
        ]
        self._back_N = torch.empty(total, dtype=torch.long, device=device)
        offset = 0
        for block in self._blocks:
            flat = torch.arange(offset, offset + block.own_RC.numel(), device=device).view_as(block.own_RC)
            self._back_N[block.own_RC[block.real_RC]] = flat[block.real_RC]
            offset += block.own_RC.numel()
        self._layers = 0

    def attend(
        self, query_1HND: Tensor, key_1HND: Tensor, value_1HND: Tensor, *, window: int | None, **options: Any
    ) -> Tensor:
        """Attention of every packed token to its own sequence, (1, N, H, D). `window`: how far back it sees."""
        self._layers += 1
        heads, size = query_1HND.shape[1], query_1HND.shape[3]
        query_NX, key_NX, value_NX = (
            x_1HND[0].transpose(0, 1).flatten(1) for x_1HND in (query_1HND, key_1HND, value_1HND)
        )
        repeat = heads // key_1HND.shape[1]
        attended = []
        for block in self._blocks:
            visible_R1CK = block.visible(window)
            out_RHCD = F.scaled_dot_product_attention(
                _take(query_NX, block.own_RC, size=size),
                _take(key_NX, block.keys_RK, size=size).repeat_interleave(repeat, dim=1),
                _take(value_NX, block.keys_RK, size=value_1HND.shape[3]).repeat_interleave(repeat, dim=1),
                attn_mask=visible_R1CK,
                is_causal=visible_R1CK is None,
                **options,
            )
            attended.append(out_RHCD.transpose(1, 2).flatten(2).flatten(0, 1))
        return F.embedding(self._back_N, torch.cat(attended)).unflatten(1, (heads, -1))[None]

    def check(self, causal_lm: Any) -> None:
        """After a forward pass: tokens of different sequences met nowhere but in attention, which kept them apart.

        Raises ValueError for architectures of which that is not known.
        """
        layers = causal_lm.config.get_text_config().num_hidden_layers
        if self._layers < layers:
            raise ValueError(
                f"{self._layers} of {layers} layers of {type(causal_lm).__name__} go through the attention that keeps "
                "packed sequences apart: share_prompts=false is the only way to train it"
            )


class _Block:
    """Sequences whose attention is computed together. Indices point into N; those of padding repeat a real one."""

    def __init__(self, start_R: Tensor, own_R: Tensor, *, prompt_start_R: Tensor, prompt_R: Tensor) -> None:
        column_C = torch.arange(int(own_R.max()), device=own_R.device)
        column_L = torch.arange(int(prompt_R.max()), device=own_R.device)
        self.real_RC = column_C < own_R[:, None]
        self.own_RC = start_R[:, None] + torch.minimum(column_C, own_R[:, None] - 1)
        prompt_RL = prompt_start_R[:, None] + torch.minimum(column_L, prompt_R[:, None] - 1)
        self.keys_RK = torch.cat([prompt_RL, self.own_RC], dim=1)
        self._query_at_RC = prompt_R[:, None] + column_C
        never = int(prompt_R.max()) + len(column_C)  # a position behind every query: padding of prompts is not seen
        self._key_at_RK = torch.cat(
            [torch.where(column_L < prompt_R[:, None], column_L, never), self._query_at_RC], dim=1
        )
        self._visible: dict[int | None, Tensor | None] = {}

    def visible(self, window: int | None) -> Tensor | None:
        """Bool (R, 1, C, K): may a query see a key? None: those before it and itself."""
        width = self.own_RC.shape[1]
        if window is not None and window >= self._key_at_RK.shape[1]:
            window = None
        if window not in self._visible:
            distance_RCK = self._query_at_RC[:, :, None] - self._key_at_RK[:, None, :]
            plain = window is None and self.keys_RK.shape[1] == width
            seen_RCK = (distance_RCK >= 0) & (distance_RCK < (window or distance_RCK.shape[2]))
            self._visible[window] = None if plain else seen_RCK[:, None]
        return self._visible[window]


def _blocks(start_R: Tensor, own_R: Tensor, *, prompt_start_R: Tensor, prompt_R: Tensor) -> Iterator[_Block]:
    """Sequences in blocks, longest first; the shortest of a block is at least half as long as its longest."""
    lengths = own_R.tolist()
    order = sorted((i for i in range(len(lengths)) if lengths[i]), key=lambda i: (-lengths[i], i))
    while order:
        count = sum(2 * lengths[index] >= lengths[order[0]] for index in order)
        chosen, order = torch.tensor(order[:count], device=own_R.device), order[count:]
        yield _Block(start_R[chosen], own_R[chosen], prompt_start_R=prompt_start_R[chosen], prompt_R=prompt_R[chosen])


def _take(x_NX: Tensor, index_RC: Tensor, *, size: int) -> Tensor:
    """Rows of a matrix as (R, H, C, D). An embedding's backward pass adds rows up faster than indexing's does."""
    return F.embedding(index_RC, x_NX).unflatten(2, (-1, size)).transpose(1, 2)


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    shared_prompts: SharedPrompts | None = None,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """What transformers calls in every layer."""
    if shared_prompts is None:
        out: tuple[Tensor, Tensor | None] = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
        return out
    window, dropout, scale = (options.pop(name, None) for name in ("sliding_window", "dropout", "scaling"))
    unknown = [name for name, value in options.items() if value is not None and name not in _WITHOUT_EFFECT]
    if unknown:
        raise ValueError(
            f"the attention of {type(module).__name__} depends on {', '.join(sorted(unknown))}, which share_prompts "
            "does not know: set share_prompts=false"
        )
    return shared_prompts.attend(query, key, value, window=window, dropout_p=dropout or 0.0, scale=scale), None


AttentionInterface.register(ATTENTION, _attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
