"""Completions of one prompt behind one copy of it: the prompt goes through the model once, not once a completion.

The tokens of a micro-batch stand in one row without padding, each distinct prompt once and then every completion; all
linear layers see just these. Attention is told which tokens belong together (`SharedPrompts`), reads their queries,
keys and values out of that row and computes sequences of similar length together.

Two completions (x, y) of one prompt (a b c), four tokens and two; the last token of each predicts nothing:

    padded rows (B, T)     packed row (W)          blocks (R sequences, Q queries, K = L + Q keys)
    a b c x x x x          a b c x x x y           a b c      sees itself
    a b c y y . .          0 1 2 3 4 5 3           x x x      sees a b c and itself
                           (positions)             y          sees a b c and itself

Shapes: B rows of a micro-batch, P distinct prompts, T padded positions, W tokens of the packed row, S scored tokens,
E model width; R sequences attended to together, Q tokens of the longest of them (queries), L tokens of their longest
prompt, K = L + Q keys; H heads, D head width, X = H x D.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from rzero.modules.attention import attention
from rzero.policy import unwrap_adapters

ATTENTION = "shared_prompts"
"""The name under which transformers knows the attention of this file."""

_NO_MASK = torch.zeros(1, 1, 1, 1)  # transformers hands a mask of four dimensions on as it is and makes none of its own

_WITHOUT_EFFECT = {"position_ids", "use_cache", "output_attentions", "output_hidden_states"}


def make_ready(model: nn.Module) -> None:
    """Give a model the attention that `SharedPrompts` needs; without them it goes on as before, with SDPA.

    Raises ValueError when the model uses another implementation than SDPA.
    """
    causal_lm: PreTrainedModel = unwrap_adapters(model)
    now = causal_lm.config.get_text_config()._attn_implementation
    if now == ATTENTION:
        return
    if now != "sdpa":
        raise ValueError(f"share_prompts needs policy.attn_implementation=sdpa, got {now}")
    causal_lm.set_attn_implementation(ATTENTION)


class SharedPrompts:
    """Where each token of a padded micro-batch stands in the packed row, and what it attends to.

    `ids_1W`, `positions_1W`: input of the model. `place_BT`: index into W of each token that is run; the last
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
        self.ids_1W = input_ids_BT.new_zeros(1, total)
        self.ids_1W[0, self.place_BT[run_BT]] = input_ids_BT[run_BT]
        self.positions_1W = torch.zeros_like(self.ids_1W)
        self.positions_1W[0, self.place_BT[run_BT]] = column_T.expand_as(run_BT)[run_BT]

        nothing_P = torch.zeros_like(prompt_P)
        self._blocks = [
            *_blocks(start_P, prompt_P, prompt_start_R=nothing_P, prompt_R=nothing_P),
            *_blocks(start_B, tail_B, prompt_start_R=start_P[which_B], prompt_R=prompt_B),
        ]
        self._back_W = torch.empty(total, dtype=torch.long, device=device)
        offset = 0
        for block in self._blocks:
            flat = torch.arange(offset, offset + block.own_RQ.numel(), device=device).view_as(block.own_RQ)
            self._back_W[block.own_RQ[block.real_RQ]] = flat[block.real_RQ]
            offset += block.own_RQ.numel()
        self._layers = 0

    @property
    def inputs(self) -> dict[str, Tensor]:
        """Returns the keyword arguments that the model is called with."""
        return {"input_ids": self.ids_1W, "position_ids": self.positions_1W}

    def hidden(
        self, causal_lm: PreTrainedModel, inputs: Mapping[str, Tensor], *, row_S: Tensor, column_S: Tensor
    ) -> Tensor:
        """Last hidden states (S, E) at the given places of the padded rows. `inputs`: ours, after FSDP's hooks.

        Raises ValueError for a model that would let the completions of one prompt see one another.
        """
        given = {name: inputs[name] for name in self.inputs}
        decoder = causal_lm.get_decoder()
        hidden_1WE: Tensor = decoder(
            **given, attention_mask=_NO_MASK, shared_prompts=self, use_cache=False
        ).last_hidden_state
        self._check(causal_lm)
        return hidden_1WE[0, self.place_BT[row_S, column_S]]

    def attend(
        self,
        query_1HWD: Tensor,
        key_1HWD: Tensor,
        value_1HWD: Tensor,
        *,
        window: int | None,
        dropout: float,
        scale: float | None,
    ) -> Tensor:
        """Attention of every packed token to its own sequence, (1, W, H, D). `window`: how far back it sees."""
        self._layers += 1
        heads, size = query_1HWD.shape[1], query_1HWD.shape[3]
        query_WX, key_WX, value_WX = (
            x_1HWD[0].transpose(0, 1).flatten(1) for x_1HWD in (query_1HWD, key_1HWD, value_1HWD)
        )
        attended = []
        for block in self._blocks:
            out_RHQD = attention(
                _take(query_WX, block.own_RQ, size=size),
                _take(key_WX, block.keys_RK, size=size),
                _take(value_WX, block.keys_RK, size=value_1HWD.shape[3]),
                visible_R1QK=block.visible(window),
                dropout=dropout,
                scale=scale,
            )
            attended.append(out_RHQD.transpose(1, 2).flatten(2).flatten(0, 1))
        return F.embedding(self._back_W, torch.cat(attended)).unflatten(1, (heads, -1))[None]

    def _check(self, causal_lm: PreTrainedModel) -> None:
        """Raises ValueError unless attention, which keeps sequences apart, was all they could have met in."""
        layers = causal_lm.config.get_text_config().num_hidden_layers
        if self._layers < layers:
            raise ValueError(
                f"{self._layers} of {layers} layers of {type(causal_lm).__name__} go through the attention that keeps "
                "packed sequences apart: share_prompts=false is the only way to train it"
            )


class _Block:
    """Sequences whose attention is computed together. Indices point into W; those of padding repeat a real one."""

    def __init__(self, start_R: Tensor, own_R: Tensor, *, prompt_start_R: Tensor, prompt_R: Tensor) -> None:
        column_Q = torch.arange(int(own_R.max()), device=own_R.device)
        column_L = torch.arange(int(prompt_R.max()), device=own_R.device)
        self.real_RQ = column_Q < own_R[:, None]
        self.own_RQ = start_R[:, None] + torch.minimum(column_Q, own_R[:, None] - 1)
        prompt_RL = prompt_start_R[:, None] + torch.minimum(column_L, prompt_R[:, None] - 1)
        self.keys_RK = torch.cat([prompt_RL, self.own_RQ], dim=1)
        self._query_at_RQ = prompt_R[:, None] + column_Q
        never = int(prompt_R.max()) + len(column_Q)  # a position behind every query: padding of prompts is not seen
        self._key_at_RK = torch.cat(
            [torch.where(column_L < prompt_R[:, None], column_L, never), self._query_at_RQ], dim=1
        )
        self._visible: dict[int | None, Tensor | None] = {}

    def visible(self, window: int | None) -> Tensor | None:
        """Bool (R, 1, Q, K): may a query see a key? None: those before it and itself."""
        width = self.own_RQ.shape[1]
        if window is not None and window >= self._key_at_RK.shape[1]:
            window = None
        if window not in self._visible:
            distance_RQK = self._query_at_RQ[:, :, None] - self._key_at_RK[:, None, :]
            plain = window is None and self.keys_RK.shape[1] == width
            seen_RQK = (distance_RQK >= 0) & (distance_RQK < (window or distance_RQK.shape[2]))
            self._visible[window] = None if plain else seen_RQK[:, None]
        return self._visible[window]


def _blocks(start_R: Tensor, own_R: Tensor, *, prompt_start_R: Tensor, prompt_R: Tensor) -> Iterator[_Block]:
    """Sequences in blocks, longest first; the shortest of a block is at least half as long as its longest."""
    lengths = own_R.tolist()
    order = sorted((i for i in range(len(lengths)) if lengths[i]), key=lambda i: (-lengths[i], i))
    while order:
        count = sum(2 * lengths[index] >= lengths[order[0]] for index in order)
        chosen, order = torch.tensor(order[:count], device=own_R.device), order[count:]
        yield _Block(start_R[chosen], own_R[chosen], prompt_start_R=prompt_start_R[chosen], prompt_R=prompt_R[chosen])


def _take(x_WX: Tensor, index_RQ: Tensor, *, size: int) -> Tensor:
    """Rows of a matrix as (R, H, Q, D). An embedding's backward pass adds rows up faster than indexing's does."""
    return F.embedding(index_RQ, x_WX).unflatten(2, (-1, size)).transpose(1, 2)


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    shared_prompts: SharedPrompts | None = None,
    sliding_window: int | None = None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """Computes attention; transformers calls it in every layer."""
    if shared_prompts is None:
        out: tuple[Tensor, Tensor | None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **options
        )
        return out
    unknown = [name for name, value in options.items() if value is not None and name not in _WITHOUT_EFFECT]
    if unknown:
        raise ValueError(
            f"the attention of {type(module).__name__} depends on {', '.join(sorted(unknown))}, which share_prompts "
            "does not know: set share_prompts=false"
        )
    return shared_prompts.attend(query, key, value, window=sliding_window, dropout=dropout, scale=scaling), None


AttentionInterface.register(ATTENTION, _attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
