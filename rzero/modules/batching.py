"""From the completions of a rollout to padded micro-batches that fit a token budget.

A rollout's rows are split into mini-batches (one optimiser step each), a mini-batch over the ranks, and a rank's rows
into micro-batches (one pass through the model each). Every row and every micro-batch names places in the rollout
(`index`), so what belongs to a row is found by `values_N[index]`, whatever way the rows went.

A micro-batch row is prompt then completion, contiguous, padded on the right to the longest row of its micro-batch only.
With `share_prompts` the model sees the rows of a group behind one copy of their prompt and no padding
(`rzero.modules.shared_prompts`); the tensors here stay the padded ones.

Weights are made once for the whole mini-batch (`rzero.grpo.aggregation`) and travel with the rows, so how it is cut
into micro-batches changes nothing but memory and speed.

Shapes: N rows of a rollout, M of a mini-batch, B of a micro-batch, T its positions, C completion positions, V
vocabulary.
"""
# ruff: noqa: N815 - a record's fields carry the shape suffix too

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rzero.engines.vocabulary import dropped_tokens
from rzero.types import Dropout, FinishReason, Group

K = TypeVar("K")

PADDING = -1  # the index of a row that is none: it fills up a micro-batch so that all ranks run equally many


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One completion to learn from, and its place in the rollout.

    index: 0..N-1, or PADDING. group: names the prompt it answers. engine_logp: the engine's log-probs (nats), one per
    completion token. counted: False leaves the row out of loss and denominators (masked truncation). dropout: what it
    was drawn without.
    """

    index: int
    group: int
    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    engine_logp: Tensor
    counted: bool
    dropout: Dropout | None = None

    def __post_init__(self) -> None:
        if not self.prompt_ids or not self.completion_ids:
            raise ValueError(
                f"a row needs a prompt and a completion, got {len(self.prompt_ids)} and {len(self.completion_ids)} ids"
            )
        if self.engine_logp.shape != (len(self.completion_ids),):
            raise ValueError(
                f"engine_logp needs one value per completion token ({len(self.completion_ids)}), "
                f"got shape {tuple(self.engine_logp.shape)}"
            )

    @property
    def length(self) -> int:
        return len(self.prompt_ids) + len(self.completion_ids)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class MicroBatch:
    """Padded tensors of some rows.

    `index_B`: their places in the rollout (PADDING: no row). `completion_mask_BT` covers completion tokens, `mask_BT`
    those that are learned from (rows that count). Weights and the engine's log-probs are float32, 0 outside
    completions. `prompts` (B,): equal numbers for rows that share their prompt (of whatever group), or None: nothing is
    shared. `dropped_BV`: tokens of the vocabulary that rows were drawn without; None: no row did without any.
    """

    index_B: Tensor
    input_ids_BT: Tensor
    completion_mask_BT: Tensor
    mask_BT: Tensor
    weights_BT: Tensor
    engine_logp_BT: Tensor
    prompts: tuple[int, ...] | None
    dropped_BV: Tensor | None = None


def rows_of(groups: Sequence[Group], *, counts: Callable[[FinishReason], bool]) -> list[Row]:
    """The rows of a rollout, group by group. `counts`: is a completion that ended like this learned from?"""
    answers = [(group, completion) for group in range(len(groups)) for completion in groups[group].completions]
    return [
        Row(
            index=index,
            group=group,
            prompt_ids=groups[group].prompt_ids,
            completion_ids=completion.token_ids,
            engine_logp=torch.tensor(completion.logprobs),
            counted=counts(completion.finish_reason),
            dropout=completion.dropout,
        )
        for index, (group, completion) in enumerate(answers)
    ]


def mini_batches(rows: Sequence[Row], *, updates: int) -> list[list[Row]]:
    """The rows of each of `updates` optimiser steps: whole groups, in order of first appearance, evenly.

    Raises ValueError when there are fewer groups than updates.
    """
    groups = list(dict.fromkeys(row.group for row in rows))
    if not 1 <= updates <= len(groups):
        raise ValueError(f"updates_per_rollout must lie in 1..{len(groups)} (the groups of a rollout), got {updates}")
    update_of = {group: position * updates // len(groups) for position, group in enumerate(groups)}
    return [[row for row in rows if update_of[row.group] == update] for update in range(updates)]


def completion_mask(rows: Sequence[Row]) -> Tensor:
    """Bool (rows, C): which completion tokens of each row are learned from. What `aggregation.weights` is given."""
    lengths = torch.tensor([len(row.completion_ids) if row.counted else 0 for row in rows])
    width = max(len(row.completion_ids) for row in rows)
    return torch.arange(width) < lengths.unsqueeze(1)


# ---------------------------------------------------------------------------------------------------------------- ranks


def rows_by_rank(rows: Sequence[Row], *, size: int, share_prompts: bool) -> list[list[Row]]:
    """The rows that each of `size` ranks learns from, in order: whole groups where they share their prompt."""
    unit = _group if share_prompts else _index
    tokens = shared_tokens(rows, key=unit)
    rank_of = dict(zip(tokens, balance(list(tokens.values()), size=size), strict=True))
    return [[row for row in rows if rank_of[unit(row)] == rank] for rank in range(size)]


def balance(lengths: Sequence[int], *, size: int) -> list[int]:
    """The rank, of `size`, that each item goes to: about equally many items and tokens for every rank.

    Items go round by falling length, forwards and backwards in turn. With fewer items than ranks some ranks get none.
    """
    ranks = [0] * len(lengths)
    for place, item in enumerate(sorted(range(len(lengths)), key=lambda item: -lengths[item])):
        turn, rank = divmod(place, size)
        ranks[item] = rank if turn % 2 == 0 else size - 1 - rank
    return ranks


def shared_tokens(rows: Sequence[Row], *, key: Callable[[Row], K]) -> dict[K, int]:
    """Key -> tokens of the rows that have it, one copy of their prompt counted; in order of first appearance."""
    tokens = {key(row): len(row.prompt_ids) for row in rows}
    for row in rows:
        tokens[key(row)] += len(row.completion_ids)
    return tokens


def _index(row: Row) -> int:
    return row.index


def _group(row: Row) -> int:
    return row.group


# -------------------------------------------------------------------------------------------------------- micro-batches


def plan(rows: Sequence[Row], *, max_tokens: int, share_prompts: bool) -> list[list[Row]]:
    """The rows of each micro-batch; ties keep their order.

    Longest first, each micro-batch filled up to `max_tokens` positions, padding included: the largest one comes first,
    so that memory runs out at once or not at all. With `share_prompts` rows of one prompt stay together, most tokens
    first, and a micro-batch has at most `max_tokens` tokens, each prompt counted once and no padding.
    """
    longest = max((row.length for row in rows), default=0)
    if longest > max_tokens:
        raise ValueError(
            f"max_tokens_per_microbatch={max_tokens} is less than the longest row ({longest} tokens): "
            "raise it to at least the longest prompt plus the longest response"
        )
    return _by_prompt(rows, max_tokens=max_tokens) if share_prompts else _by_length(rows, max_tokens=max_tokens)


def _by_length(rows: Sequence[Row], *, max_tokens: int) -> list[list[Row]]:
    parts: list[list[Row]] = []
    capacity = 0
    for row in sorted(rows, key=lambda row: -row.length):
        if not parts or len(parts[-1]) == capacity:
            parts.append([])
            capacity = max_tokens // row.length
        parts[-1].append(row)
    return parts


def _by_prompt(rows: Sequence[Row], *, max_tokens: int) -> list[list[Row]]:
    tokens = shared_tokens(rows, key=lambda row: row.prompt_ids)
    answers: dict[tuple[int, ...], list[Row]] = {prompt: [] for prompt in tokens}
    for row in rows:
        answers[row.prompt_ids].append(row)
    parts: list[list[Row]] = []
    room = 0
    for prompt in sorted(tokens, key=lambda prompt: -tokens[prompt]):
        if not parts or min(tokens[prompt], max_tokens) > room:  # only what is larger than a micro-batch is cut
            parts.append([])
            room = max_tokens
        room -= len(prompt)
        for row in answers[prompt]:
            needed = len(row.completion_ids)
            if needed > room:
                parts.append([])
                room = max_tokens - len(prompt)
            parts[-1].append(row)
            room -= needed
    return parts


def micro_batches(
    parts: Sequence[Sequence[Row]],
    *,
    weights_of: Mapping[int, Tensor],
    count: int,
    share_prompts: bool,
    pad_id: int,
    device: torch.device,
    droppable_V: NDArray[np.bool_] | None = None,
) -> list[MicroBatch]:
    """`count` micro-batches: those of `plan`, then as many of weight zero as are missing.

    `weights_of`: the index of a row -> the weight of each of its completion tokens (C,), behind which it may go on.
    `count`: under data parallelism the largest number any rank needs, because gradients are exchanged, and split
    parameters gathered, once per micro-batch.
    `droppable_V`: where rows were drawn without some tokens, which they may have been.
    """
    # two tokens that weigh nothing: every parameter still gets a gradient (of zero), as the exchange expects
    padding = Row(
        index=PADDING, group=PADDING, prompt_ids=(pad_id,), completion_ids=(pad_id,), engine_logp=torch.zeros(1),
        counted=False,
    )  # fmt: skip
    weights_of = {**weights_of, PADDING: torch.zeros(1)}
    return [
        _padded(
            rows,
            weights=[weights_of[row.index][: len(row.completion_ids)] for row in rows],
            share_prompts=share_prompts,
            pad_id=pad_id,
            device=device,
            droppable_V=droppable_V,
        )
        for rows in [*parts, *[[padding]] * (count - len(parts))]
    ]


def _padded(
    rows: Sequence[Row],
    *,
    weights: Sequence[Tensor],
    share_prompts: bool,
    pad_id: int,
    device: torch.device,
    droppable_V: NDArray[np.bool_] | None,
) -> MicroBatch:
    width = max(row.length for row in rows)
    input_ids_BT = torch.tensor(
        [[*row.prompt_ids, *row.completion_ids, *[pad_id] * (width - row.length)] for row in rows]
    )
    column_T = torch.arange(width)
    start_B1 = torch.tensor([len(row.prompt_ids) for row in rows]).unsqueeze(1)
    stop_B1 = torch.tensor([row.length for row in rows]).unsqueeze(1)
    completion_mask_BT = (column_T >= start_B1) & (column_T < stop_B1)
    counted_B1 = torch.tensor([row.counted for row in rows]).unsqueeze(1)

    def spread(values: Sequence[Tensor]) -> Tensor:
        """Per-completion values to their columns; masked_scatter fills row by row, which is the order given."""
        flat = torch.cat([value.to("cpu", torch.float32) for value in values])
        return torch.zeros(completion_mask_BT.shape).masked_scatter(completion_mask_BT, flat).to(device)

    numbers: dict[tuple[int, ...], int] = {}
    return MicroBatch(
        index_B=torch.tensor([row.index for row in rows], device=device),
        input_ids_BT=input_ids_BT.to(device),
        completion_mask_BT=completion_mask_BT.to(device),
        mask_BT=(completion_mask_BT & counted_B1).to(device),
        weights_BT=spread(weights),
        engine_logp_BT=spread([row.engine_logp for row in rows]),
        prompts=tuple(numbers.setdefault(row.prompt_ids, len(numbers)) for row in rows) if share_prompts else None,
        dropped_BV=None
        if droppable_V is None
        else torch.from_numpy(dropped_tokens(droppable_V, [row.dropout for row in rows])).to(device),
    )
