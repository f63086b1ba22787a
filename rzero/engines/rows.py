"""The rows of a call, for every engine alike: one row is one completion to draw.

An engine encodes the prompts, draws its share of the rows in any order it likes, and puts completions back into groups.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rzero.parsing import CLOSE, OPEN
from rzero.prompts import END_OF_THINK, THINK, encode_prompt, opened_thinking
from rzero.types import Completion, FinishReason, Group, Prompt, Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MARKERS = (OPEN, CLOSE, THINK, END_OF_THINK)
"""Text of the contract between the roles, which is read in responses also where a tokenizer calls it special."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One completion to draw: which prompt of the call, which sample of it, and how long it may become (tokens)."""

    prompt: int
    sample: int
    limit: int


def encode_all(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt], *, context: int | None
) -> list[list[int]]:
    """Returns the token ids of each prompt; `context` is the longest sequence of the model (None: no limit).

    Raises ValueError for an empty prompt and for one that leaves the context no room for a response.
    """
    return [_encode(tokenizer, prompt, index=index, context=context) for index, prompt in enumerate(prompts)]


def _encode(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, *, index: int, context: int | None) -> list[int]:
    ids = encode_prompt(tokenizer, prompt)
    if not ids:
        raise ValueError(f"prompt {index} is empty: {prompt!r}")
    if context is not None and len(ids) >= context:
        raise ValueError(
            f"prompt {index} has {len(ids)} tokens, but the model's context is {context} and must hold at "
            f"least one token of the response; shorten the prompt: {prompt.user[:80]!r}"
        )
    return ids


def rows_of_share(
    prompt_ids: Sequence[Sequence[int]], sampling: Sampling, *, context: int | None, share: tuple[int, int]
) -> list[Row]:
    """Returns the rows of part `share[0]` of `share[1]`, counted prompt by prompt.

    A row's limit is what the context leaves it.
    """
    everything, (part, parts) = list(_rows(prompt_ids, sampling, context)), share
    return everything[len(everything) * part // parts : len(everything) * (part + 1) // parts]


def _rows(prompt_ids: Sequence[Sequence[int]], sampling: Sampling, context: int | None) -> Iterator[Row]:
    for prompt, ids in enumerate(prompt_ids):
        room = sampling.max_tokens if context is None else context - len(ids)
        for sample in range(sampling.n):
            yield Row(prompt=prompt, sample=sample, limit=min(sampling.max_tokens, room))


def to_completions(
    ids: Sequence[Sequence[int]],
    logprobs: Sequence[Sequence[float]],
    *,
    stopped: Sequence[bool],
    tokenizer: PreTrainedTokenizerBase,
) -> list[Completion]:
    """Returns completions from sampled ids. `stopped`: the row ended with an eos token, which is not text.

    Special tokens are no text either, apart from `MARKERS`, and neither are ids that the tokenizer has no token for.
    Where the chat template opens the thinking, the text begins with that: it is part of the response.
    """
    if not ids:  # some tokenizers decode an empty batch to one empty text
        return []
    rows = [row[:-1] if ended else row for row, ended in zip(ids, stopped, strict=True)]
    mute = _mute_ids(tokenizer, {number for row in rows for number in row})
    texts = tokenizer.batch_decode(
        [[number for number in row if number not in mute] for row in rows],
        skip_special_tokens=False,
        clean_up_tokenization_spaces=False,
    )
    opening = opened_thinking(tokenizer)
    reasons: list[FinishReason] = ["stop" if ended else "length" for ended in stopped]
    return [
        Completion(text=opening + text, token_ids=tuple(row), logprobs=tuple(values), finish_reason=reason)
        for text, row, values, reason in zip(texts, ids, logprobs, reasons, strict=True)
    ]


def _mute_ids(tokenizer: PreTrainedTokenizerBase, drawn: Set[int]) -> Set[int]:
    """Those of the drawn ids that say nothing to a reader of responses."""
    special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    special |= set(tokenizer.all_special_ids)
    mute = {i for i in special & drawn if str(tokenizer.convert_ids_to_tokens(i)).strip() not in MARKERS}
    if not tokenizer.is_fast:  # fast ones pass over an id that has no token, others fail
        mute |= drawn - set(tokenizer.get_vocab().values())
    return mute


def to_groups(
    prompts: Sequence[Prompt],
    prompt_ids: Sequence[Sequence[int]],
    drawn: Sequence[tuple[Row, Completion]],
) -> list[Group]:
    """Returns one group per prompt, completions in the order of samples; samples that were not drawn are left out."""
    completions: list[dict[int, Completion]] = [{} for _ in prompts]
    for row, completion in drawn:
        completions[row.prompt][row.sample] = completion
    return [
        Group(prompt=prompt, prompt_ids=tuple(ids), completions=tuple(done[sample] for sample in sorted(done)))
        for prompt, ids, done in zip(prompts, prompt_ids, completions, strict=True)
    ]
