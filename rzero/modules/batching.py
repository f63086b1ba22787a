"""From completions of a rollout to padded micro-batches that fit a token budget, and back.

A micro-batch row is prompt then completion, contiguous, padded on the right to the longest row of its micro-batch only.
With `share_prompts` the model sees the rows of a group behind one copy of their prompt and no padding
(`rzero.modules.shared_prompts`); the tensors here stay the padded ones.

Weights are made once for the whole optimiser step (`rzero.grpo.aggregation`) and travel with the rows, so how a step is
cut into micro-batches changes nothing but memory and speed.

Shapes: N rows of one optimiser step (one rank), C completion positions, B rows of one micro-batch, T its positions.
"""
# ruff: noqa: N815 - a record's fields carry the shape suffix too

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

K = TypeVar("K")

NOT_A_ROW = -1  # in MicroBatch.rows: padding added so that all ranks run equally many micro-batches


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One completion to learn from.

    `group` names the prompt it answers, `counted=False` leaves it out of loss and denominators (masked truncation). The
    optional log-probs (nats) hold one value per completion token: the trainer's at rollout time (`old`), the
    reference's, and the engine's.
    """

    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    group: int
    advantage: float = 0.0
    counted: bool = True
    old_logp: Tensor | None = None
    ref_logp: Tensor | None = None
    engine_logp: Tensor | None = None

    def __post_init__(self) -> None:
        if not self.prompt_ids or not self.completion_ids:
            raise ValueError(
                f"a row needs a prompt and a completion, got {len(self.prompt_ids)} and {len(self.completion_ids)} ids"
            )
        for name in _LOGPROBS:
            values = getattr(self, name)
            if values is not None and values.shape != (len(self.completion_ids),):
                raise ValueError(
                    f"{name} needs one value per completion token ({len(self.completion_ids)}), "
                    f"got shape {tuple(values.shape)}"
                )

    @property
    def length(self) -> int:
        return len(self.prompt_ids) + len(self.completion_ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatch:
    """Padded tensors of some rows. `rows` are their indices in the list they came from (NOT_A_ROW: padding).

    `completion_mask_BT` covers completion tokens, `mask_BT` those that are learned from (rows that count). Log-probs
    are float32, 0 outside completions, and None unless every row has them. `prompts` (B,): equal numbers for rows
    that share their prompt (of whatever group), or None: nothing is shared.
    """

    rows: tuple[int, ...]
    input_ids_BT: Tensor
    attention_mask_BT: Tensor
    position_ids_BT: Tensor
    completion_mask_BT: Tensor
    mask_BT: Tensor
    weights_BT: Tensor
    advantages_B: Tensor
    old_logp_BT: Tensor | None = None
    ref_logp_BT: Tensor | None = None
    engine_logp_BT: Tensor | None = None
    prompts: tuple[int, ...] | None = None

    def split(self, values_BT: Tensor) -> Iterable[tuple[int, Tensor]]:
        """(row index, values of its completion tokens) for each real row, such as freshly computed log-probs."""
        for row, values_T, mask_T in zip(self.rows, values_BT, self.completion_mask_BT, strict=True):
            if row != NOT_A_ROW:
                yield row, values_T[mask_T]


def completion_mask(rows: Sequence[Row]) -> Tensor:
    """Bool (N, C): which completion tokens of each row are learned from. What `aggregation.weights` is given."""
    length_N = torch.tensor([len(row.completion_ids) if row.counted else 0 for row in rows])
    width = max(len(row.completion_ids) for row in rows)
    return torch.arange(width) < length_N.unsqueeze(1)


def windows(rows: Sequence[Row], *, updates: int) -> list[list[int]]:
    """Indices of the rows of each of `updates` optimiser steps: whole groups, in order of first appearance, evenly.

    Raises ValueError when there are fewer groups than updates.
    """
    groups = list(dict.fromkeys(row.group for row in rows))
    if not 1 <= updates <= len(groups):
        raise ValueError(f"updates_per_rollout must lie in 1..{len(groups)} (the groups of a rollout), got {updates}")
    update_of = {group: position * updates // len(groups) for position, group in enumerate(groups)}
    parts: list[list[int]] = [[] for _ in range(updates)]
    for index, row in enumerate(rows):
        parts[update_of[row.group]].append(index)
    return parts


def microbatches(
    rows: Sequence[Row],
    *,
    max_tokens: int,
    weights_NC: Tensor,
    pad_id: int = 0,
    share_prompts: bool = False,
    count: int | None = None,
    device: torch.device | str = "cpu",
) -> list[MicroBatch]:
    """Every row exactly once, in the micro-batches of `plan`.

    `weights_NC`: weight of each completion token, from `aggregation.weights(completion_mask(rows), ...)`.
    `count`: return that many, filling up with micro-batches of weight zero. Under data parallelism every rank passes
    the largest number any rank needs (`len(plan(...))`), because gradients are exchanged once per micro-batch.
    """
    parts = plan(rows, max_tokens=max_tokens, share_prompts=share_prompts)
    batches = [_pad(rows, part, weights_NC=weights_NC, pad_id=pad_id, device=torch.device(device)) for part in parts]
    if share_prompts:
        number = {prompt: index for index, prompt in enumerate(shared_tokens(rows, key=lambda row: row.prompt_ids))}
        batches = [replace(b, prompts=tuple(number[rows[index].prompt_ids] for index in b.rows)) for b in batches]
    missing = 0 if count is None else count - len(batches)
    if missing < 0:
        raise ValueError(f"{len(rows)} rows need {len(batches)} micro-batches, more than count={count}")
    return batches + [_weightless(pad_id=pad_id, like=batches[0] if batches else None, device=device)] * missing


def plan(rows: Sequence[Row], *, max_tokens: int, share_prompts: bool = False) -> list[list[int]]:
    """Which rows share a micro-batch, as indices into `rows`; ties keep their order.

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


def _by_length(rows: Sequence[Row], *, max_tokens: int) -> list[list[int]]:
    parts: list[list[int]] = []
    capacity = 0
    for index in sorted(range(len(rows)), key=lambda index: (-rows[index].length, index)):
        if not parts or len(parts[-1]) == capacity:
            parts.append([])
            capacity = max_tokens // rows[index].length
        parts[-1].append(index)
    return parts


def _by_prompt(rows: Sequence[Row], *, max_tokens: int) -> list[list[int]]:
    tokens = shared_tokens(rows, key=lambda row: row.prompt_ids)
    indices: dict[tuple[int, ...], list[int]] = {prompt: [] for prompt in tokens}
    for index, row in enumerate(rows):
        indices[row.prompt_ids].append(index)
    parts: list[list[int]] = []
    room = 0
    for prompt in sorted(tokens, key=lambda prompt: -tokens[prompt]):
        if not parts or min(tokens[prompt], max_tokens) > room:  # only what is larger than a micro-batch is cut
            parts, room = [*parts, []], max_tokens
        room -= len(prompt)
        for index in indices[prompt]:
            needed = len(rows[index].completion_ids)
            if needed > room:
                parts, room = [*parts, []], max_tokens - len(prompt)
            parts[-1].append(index)
            room -= needed
    return parts


def shared_tokens(rows: Sequence[Row], *, key: Callable[[Row], K]) -> dict[K, int]:
    """Key -> tokens of the rows that have it, one copy of their prompt counted; in order of first appearance."""
    tokens = {key(row): len(row.prompt_ids) for row in rows}
    for row in rows:
        tokens[key(row)] += len(row.completion_ids)
    return tokens


def balance(lengths: Sequence[int], *, size: int) -> list[list[int]]:
    """Indices of the rows each of `size` ranks learns from, in order: about equally many rows and tokens for each.

    Rows go round by falling length, forwards and backwards in turn. With fewer rows than ranks some hands are empty.
    """
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    hands: list[list[int]] = [[] for _ in range(size)]
    for place, index in enumerate(order):
        turn, rank_config = divmod(place, size)
        hands[rank_config if turn % 2 == 0 else size - 1 - rank_config].append(index)
    return [sorted(hand) for hand in hands]


_LOGPROBS = ("old_logp", "ref_logp", "engine_logp")


def _pad(
    rows: Sequence[Row], part: Sequence[int], *, weights_NC: Tensor, pad_id: int, device: torch.device
) -> MicroBatch:
    chosen = [rows[index] for index in part]
    width = max(row.length for row in chosen)
    input_ids_BT = torch.tensor(
        [[*row.prompt_ids, *row.completion_ids, *[pad_id] * (width - row.length)] for row in chosen]
    )
    column_T = torch.arange(width)
    start_B1 = torch.tensor([len(row.prompt_ids) for row in chosen]).unsqueeze(1)
    stop_B1 = torch.tensor([row.length for row in chosen]).unsqueeze(1)
    completion_mask_BT = (column_T >= start_B1) & (column_T < stop_B1)
    counted_B1 = torch.tensor([row.counted for row in chosen]).unsqueeze(1)

    def spread(values: Sequence[Tensor]) -> Tensor:
        """Per-completion values to their columns; masked_scatter fills row by row, which is the order given."""
        flat = torch.cat([value.to("cpu", torch.float32) for value in values])
        return torch.zeros(completion_mask_BT.shape).masked_scatter(completion_mask_BT, flat)

    logprobs: dict[str, Any] = {}
    for name in _LOGPROBS:
        values = [getattr(row, name) for row in chosen]
        if all(value is not None for value in values):
            logprobs[f"{name}_BT"] = spread(values).to(device)
    weights = [weights_NC[index, : len(row.completion_ids)] for index, row in zip(part, chosen, strict=True)]
    return MicroBatch(
        rows=tuple(part),
        input_ids_BT=input_ids_BT.to(device),
        attention_mask_BT=(column_T < stop_B1).long().to(device),
        position_ids_BT=column_T.expand(len(chosen), width).to(device),
        completion_mask_BT=completion_mask_BT.to(device),
        mask_BT=(completion_mask_BT & counted_B1).to(device),
        weights_BT=spread(weights).to(device),
        advantages_B=torch.tensor([row.advantage for row in chosen], dtype=torch.float32, device=device),
        **logprobs,
    )


def _weightless(*, pad_id: int, like: MicroBatch | None, device: torch.device | str) -> MicroBatch:
    """Two tokens that weigh nothing: every parameter still gets a gradient (of zero), as the exchange expects.

    Carries the same optional log-probs as `like`, so that all micro-batches report the same metrics.
    """
    present: dict[str, Any] = {
        name: torch.zeros(1) for name in _LOGPROBS if like is None or getattr(like, f"{name}_BT") is not None
    }
    row = Row(prompt_ids=(pad_id,), completion_ids=(pad_id,), group=0, counted=False, **present)
    batch = _pad([row], [0], weights_NC=torch.zeros(1, 1), pad_id=pad_id, device=torch.device(device))
    return replace(batch, rows=(NOT_A_ROW,))
