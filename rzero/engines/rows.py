"""The rows of a call, for every engine alike: one row is one completion to draw.

An engine encodes the prompts, draws its share of the rows in any order it likes, and puts completions back into groups.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rzero.prompts import encode_prompt
from rzero.types import Completion, FinishReason, Group, Prompt, Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


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
    """Returns completions from sampled ids. `stopped`: the row ended with an eos token, which is not text."""
    if not ids:  # some tokenizers decode an empty batch to one empty text
        return []
    texts = tokenizer.batch_decode(
        [list(row[:-1] if ended else row) for row, ended in zip(ids, stopped, strict=True)],
        skip_special_tokens=True,
        clean_up_tokenization_spaces=False,
    )
    reasons: list[FinishReason] = ["stop" if ended else "length" for ended in stopped]
    return [
        Completion(text=text, token_ids=tuple(row), logprobs=tuple(values), finish_reason=reason)
        for text, row, values, reason in zip(texts, ids, logprobs, reasons, strict=True)
    ]


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
