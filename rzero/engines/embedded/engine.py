"""The rollout engine that lives in the training process: torch only, no server, no second copy of the tokenizer.

    engine.sync(policy)
    groups = engine.generate(prompts, Sampling(n=8, max_tokens=64, seed=3))

Rows (one per completion) are sorted by prompt length and decoded at most `max_rows` side by side
(`rzero.engines.embedded.drawing`).

Shapes: B rows side by side, V vocabulary.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rzero.engines.across import ShardedEngine
from rzero.engines.embedded.choice import measured, settled
from rzero.engines.embedded.decoder import Follower
from rzero.engines.embedded.drawing import Asked, Drawing, Drawn, Tally
from rzero.engines.embedded.exact import Exact
from rzero.engines.embedded.fused import FusedDecoder
from rzero.engines.embedded.fused_weights import why_not_fused
from rzero.engines.embedded.generic import GenericDecoder
from rzero.engines.embedded.rounded import RoundedDecoder, why_not_rounded
from rzero.engines.rows import Row, encode_all, rows_of_share, to_completions, to_groups
from rzero.engines.sampling import TokenSampler, row_keys
from rzero.engines.threads import torch_threads
from rzero.engines.verification import rollout_dtype
from rzero.engines.vocabulary import dropouts, droppable_tokens, dropped_tokens
from rzero.interfaces import Progress
from rzero.policy import Policy, unwrap_adapters
from rzero.processes.memory import let_go_of_files
from rzero.processes.ranks import Ranks
from rzero.types import Completion, Dropout, Group, Prompt, Sampling

DecoderName = Literal["auto", "fused", "generic"]


class EmbeddedEngine:
    """A `RolloutEngine` in this process.

    A completion depends on the seed of the call, the index of its prompt in the call, its sample index and the weights,
    not on what else is in the batch (up to floating-point rounding: another batch size may round differently).

    max_rows: completions decoded side by side. threads: torch threads while decoding. compact_below: share of rows
    alive below which finished rows are taken out. refill: others then take their place where the decoder can do that
    (the fused one); else, and with false, `max_rows` begin when all before them have ended. prefill_tokens: padded
    prompt tokens read at once. first_capacity: response tokens that room is made for at first. verify_sync: compare
    with the policy's own forward pass after each sync. decoder: `auto` takes the fused decoder where it computes the
    architecture exactly, else the generic one. dtype: what weights are rounded to for rollouts, such as bfloat16, or
    int8 on CPUs (fused decoder; adapters stay as they are beside the rounded base), or auto: int8 where that is faster
    here, else None; None: the policy's. kept: the file that a choice of auto is written to and, where it is there, read
    from. device: where rollouts are computed, such as cuda; None: where the policy is. A frozen Solver lies in host
    memory and is still drawn from on the GPU.
    """

    drops_vocabulary: ClassVar[bool] = True
    """It knows what `Sampling.vocabulary_dropout` means."""

    def __init__(
        self,
        *,
        max_rows: int,
        threads: int,
        compact_below: float,
        prefill_tokens: int,
        first_capacity: int,
        verify_sync: bool,
        decoder: DecoderName,
        dtype: str | None = None,
        device: str | None = None,
        kept: str | None = None,
        refill: bool = False,
    ) -> None:
        if max_rows < 1 or threads < 1 or prefill_tokens < 1 or first_capacity < 1:
            raise ValueError("engine.max_rows, threads, prefill_tokens and first_capacity must be at least 1")
        if not 0 < compact_below <= 1:
            raise ValueError(f"engine.compact_below must lie in (0, 1], got {compact_below}")
        if decoder not in ("auto", "fused", "generic"):
            raise ValueError(f"engine.decoder must be auto, fused or generic, got {decoder!r}")
        self._max_rows = max_rows
        self._threads = threads
        self._compact_below = compact_below
        self._refill = refill
        self._prefill_tokens = prefill_tokens
        self._first_capacity = first_capacity
        self._verify_sync = verify_sync
        self._decoder_name = decoder
        self._int8 = dtype == "int8"
        if dtype in ("int8", "auto") and decoder == "generic":
            raise ValueError(f"engine.dtype={dtype} needs the fused decoder: engine.decoder=auto")
        if dtype == "auto" and kept is None:
            raise ValueError("engine.dtype=auto keeps its choice in a file, engine.kept: choose engine=embedded_auto")
        self._undecided = Path(kept) if dtype == "auto" and kept else None
        self._dtype = None if dtype in ("int8", "auto") else rollout_dtype(dtype)
        self._device = None if device is None else torch.device(device)
        self._decoder: Follower | None = None
        self._made_for: weakref.ref[PreTrainedModel] | None = None  # a frozen policy must not stay in memory for us
        self._tokenizer: PreTrainedTokenizerBase | None = None
        self._vocabulary = 0
        self._eos_ids: tuple[int, ...] = ()
        self._context: int | None = None

    # ---- weights -------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def sync(self, policy: Policy) -> None:
        """Takes a copy of the policy's weights, LoRA merged; raises RuntimeError when a probe shows they differ.

        In int8 adapters are taken beside the rounded weights.
        """
        model = unwrap_adapters(policy.model)
        device = self._device or model.device
        if self._undecided is not None:
            rows, threads = self._max_rows, self._threads
            chosen = settled(self._undecided, lambda: measured(policy, rows=rows, threads=threads, device=device))
            self._int8, self._undecided = chosen == "int8", None
        if self._decoder is None or self._made_for is None or self._made_for() is not policy.model:
            self._decoder = self._make_decoder(model, device)
            self._made_for = weakref.ref(policy.model)
        self._decoder.take(policy)
        self._tokenizer = policy.tokenizer
        self._eos_ids = policy.eos_ids()
        self._context = policy.context()
        self._vocabulary = policy.vocabulary()
        if self._verify_sync:
            self._decoder.compare(policy)

    @torch.no_grad()
    def verify(self, policy: Policy) -> None:
        """Raises RuntimeError when the engine decodes with other weights than those of `policy`."""
        assert self._decoder is not None, "sync() comes before verify()"
        self._decoder.verify(policy)

    def close(self) -> None:
        """Lets go of the weights; the engine can be synced again."""
        self._decoder = self._made_for = self._tokenizer = None

    def across(self, ranks: Ranks) -> ShardedEngine:
        """Returns the engine of which each of several processes draws a share."""
        return ShardedEngine(self, ranks)

    def _make_decoder(self, model: PreTrainedModel, device: torch.device) -> Follower:
        if self._int8:
            if (reason := why_not_rounded(model, device)) is not None:
                raise ValueError(f"engine.dtype=int8 cannot run this model: {reason}; use engine.dtype=null")
            return RoundedDecoder(self._fused(model))
        dtype = self._dtype or model.dtype
        reason = why_not_fused(model, dtype)
        if self._decoder_name == "fused" and reason is not None:
            raise ValueError(f"engine.decoder=fused cannot run this model: {reason}; use auto or generic")
        generic = self._decoder_name == "generic" or reason is not None
        decoder = GenericDecoder(model, dtype=dtype, device=device) if generic else self._fused(model)
        return Exact(decoder, dtype=self._dtype, device=device)

    def _fused(self, model: PreTrainedModel) -> FusedDecoder:
        return FusedDecoder(model, prefill_tokens=self._prefill_tokens, first_capacity=self._first_capacity)

    # ---- rollouts ------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        *,
        progress: Progress | None = None,
        share: tuple[int, int] = (0, 1),
    ) -> list[Group]:
        """`sampling.n` completions per prompt, in the order of the prompts. `progress` counts completions, and at
        every step the tokens drawn.

        share: (part, parts) draws only that part of all rows, counted prompt by prompt; groups then lack the others.

        Raises RuntimeError before the first sync and ValueError for an empty prompt or one that leaves the model's
        context no room for a response.
        """
        if self._decoder is None or self._tokenizer is None:
            raise RuntimeError("the engine has no weights yet: call sync(policy) before generate()")
        if self._int8 and self._made_for and (model := self._made_for()) is not None:
            let_go_of_files(model.parameters())  # drawing reads rounded ones alone
        prompt_ids = encode_all(self._tokenizer, prompts, context=self._context)
        mine = rows_of_share(prompt_ids, sampling, context=self._context, share=share)
        rows = sorted(mine, key=lambda row: len(prompt_ids[row.prompt]))
        tally = Tally(progress=progress, total=len(rows))
        at_once = max(1, len(rows)) if self._refill else self._max_rows
        drawn: list[tuple[Row, Completion]] = []
        with torch_threads(self._threads):
            for first in range(0, len(rows), at_once):
                some = rows[first : first + at_once]
                drawn += zip(some, self._draw(some, prompt_ids, sampling, tally), strict=True)
        return to_groups(prompts, prompt_ids, drawn)

    def _draw(
        self, rows: Sequence[Row], prompt_ids: Sequence[Sequence[int]], sampling: Sampling, tally: Tally
    ) -> list[Completion]:
        assert self._decoder is not None
        assert self._tokenizer is not None
        keys = row_keys(
            sampling.seed,
            prompt_index=np.array([row.prompt for row in rows]),
            sample_index=np.array([row.sample for row in rows]),
        )
        without = dropouts(keys, share=sampling.vocabulary_dropout)

        def sampler(some: Sequence[int]) -> TokenSampler:
            dropped = self._dropped([without[row] for row in some])
            return TokenSampler(sampling, keys=keys[some], dropped_BV=dropped)

        drawn = Drawing(
            self._asked(rows, prompt_ids), self._decoder, sampler=sampler, limits=[row.limit for row in rows],
            eos_ids=self._eos_ids, room=self._max_rows, compact_below=self._compact_below, refill=self._refill,
            tally=tally,
        ).run()  # fmt: skip
        return [
            replace(completion, dropout=dropout)
            for completion, dropout in zip(_to_completions(drawn, self._tokenizer), without, strict=True)
        ]

    def _asked(self, rows: Sequence[Row], prompt_ids: Sequence[Sequence[int]]) -> list[Asked]:
        """Rows by their prompt, at most `max_rows` together; equal prompts may come from several places of the call."""
        by_prompt: dict[tuple[int, ...], list[int]] = {}
        for place, row in enumerate(rows):
            by_prompt.setdefault(tuple(prompt_ids[row.prompt]), []).append(place)
        return [
            Asked(ids=ids, rows=places[first : first + self._max_rows])
            for ids, places in by_prompt.items()
            for first in range(0, len(places), self._max_rows)
        ]

    def _dropped(self, without: Sequence[Dropout | None]) -> Tensor | None:
        """The tokens that each row does without [B, V]; None where that is none for any."""
        assert self._tokenizer is not None
        if not any(without):
            return None
        droppable_V = droppable_tokens(self._tokenizer, vocabulary=self._vocabulary, eos_ids=self._eos_ids)
        return torch.from_numpy(dropped_tokens(droppable_V, without))


def _to_completions(drawn: Drawn, tokenizer: PreTrainedTokenizerBase) -> list[Completion]:
    return to_completions(
        [tokens[:length].tolist() for tokens, length in zip(drawn.tokens, drawn.lengths, strict=True)],
        [values[:length].tolist() for values, length in zip(drawn.logprobs, drawn.lengths, strict=True)],
        stopped=drawn.stopped.tolist(),
        tokenizer=tokenizer,
    )
