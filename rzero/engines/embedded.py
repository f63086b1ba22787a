"""The rollout engine that lives in the training process: torch only, no server, no second copy of the tokenizer.

    engine.sync(policy)
    groups = engine.generate(prompts, Sampling(n=8, max_tokens=64, seed=3))

Rows (one per completion) are sorted by prompt length and decoded in waves of at most `max_rows`. Finished rows are
taken out of the wave whenever the share still alive falls below `compact_below`.

Shapes: B rows still in the wave, T tokens of a response, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from rzero.engines.decoder import Decoder
from rzero.engines.fused import FusedDecoder
from rzero.engines.generic import GenericDecoder
from rzero.engines.sampling import TokenSampler, row_keys
from rzero.engines.weights import why_not_fused
from rzero.policy import Policy, merged_weights, unwrap_adapters
from rzero.prompts import encode_prompt
from rzero.types import Completion, FinishReason, Group, Prompt, Sampling

DecoderName = Literal["auto", "fused", "generic"]
Progress = Callable[[int, int], None]
_TOLERANCE = 1e-4  # nats; fp32 decoders agree to about 1e-6, a stale matrix is off by more than 1e-2
# Of the log-prob itself. Rounding grows with its size: on tokens at -50 nats, which nobody draws, two right fp32 passes
# of Gemma 3 270M differ by 3e-4 nats, and each by as much from the same pass in fp64.
_RELATIVE_TOLERANCE = 2e-5


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """One completion to draw: which prompt of the call, which sample of it, and how long it may become."""

    prompt: int
    sample: int
    limit: int


@dataclass(slots=True, kw_only=True)
class _Drawn:
    """What a wave drew, [rows, T], and how many tokens of each row count. `stopped`: ended by an eos token."""

    tokens: np.ndarray
    logprobs: np.ndarray
    lengths: np.ndarray
    stopped: np.ndarray


class EmbeddedEngine:
    """A `RolloutEngine` in this process.

    A completion depends on the seed of the call, the index of its prompt in the call, its sample index and the weights,
    not on what else is in the batch (up to floating-point rounding: another batch size may round differently).

    max_rows: completions decoded side by side. threads: torch threads while decoding. compact_below: share of rows
    alive below which finished rows are taken out. prefill_tokens: padded prompt tokens read at once. first_capacity:
    response tokens that room is made for at first. verify_sync: compare with the policy's own forward pass after each
    sync. decoder: `auto` takes the fused decoder where it computes the architecture exactly, else the generic one.
    """

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
        self._prefill_tokens = prefill_tokens
        self._first_capacity = first_capacity
        self._verify_sync = verify_sync
        self._decoder_name = decoder
        self._decoder: Decoder | None = None
        self._model_of_decoder: Any = None
        self._tokenizer: Any = None
        self._eos_ids: tuple[int, ...] = ()
        self._context: int | None = None

    # ---- weights -------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def sync(self, policy: Policy) -> None:
        """Takes a copy of the policy's weights, LoRA merged; raises RuntimeError when a probe shows they differ."""
        model = unwrap_adapters(policy.model)
        if self._decoder is None or self._model_of_decoder is not policy.model:
            self._decoder = self._make_decoder(model)
            self._model_of_decoder = policy.model
        self._decoder.load(merged_weights(policy.model))
        self._tokenizer = policy.tokenizer
        self._eos_ids = policy.eos_ids()
        self._context = policy.context()
        if self._verify_sync:
            self.verify(policy)

    @torch.no_grad()
    def verify(self, policy: Policy) -> None:
        """Raises RuntimeError when the engine's log-probs on a short probe are not those of `policy`."""
        vocabulary = policy.model.get_input_embeddings().weight.shape[0]
        probes = [[(7 * i + 3) % vocabulary for i in range(length)] for length in (3, 6)]
        own = self._probe(probes, continuation=[vocabulary // 2, vocabulary // 3])
        training = policy.model.training
        policy.model.eval()
        try:
            for row, probe in enumerate(probes):
                ids = torch.tensor([[*probe, vocabulary // 2, vocabulary // 3]], device=policy.model.device)
                reference = policy.model(input_ids=ids, use_cache=False).logits[0, len(probe) - 1 :].float()
                logp = reference.log_softmax(-1)
                difference = (own[row] - logp).abs()
                if not bool((difference <= (logp.abs() * _RELATIVE_TOLERANCE).clamp(min=_TOLERANCE)).all()):
                    raise RuntimeError(
                        f"the engine's log-probs differ from the policy's by {float(difference.max()):.3g} nats "
                        f"(at most {_TOLERANCE:g} allowed): its weights are stale or its decoder is wrong"
                    )
        finally:
            policy.model.train(training)

    def close(self) -> None:
        """Lets go of the weights; the engine can be synced again."""
        self._decoder = self._model_of_decoder = self._tokenizer = None

    def _make_decoder(self, model: Any) -> Decoder:
        reason = why_not_fused(model)
        if self._decoder_name == "fused" and reason is not None:
            raise ValueError(f"engine.decoder=fused cannot run this model: {reason}; use auto or generic")
        if self._decoder_name == "generic" or reason is not None:
            return GenericDecoder(model)
        return FusedDecoder(model, prefill_tokens=self._prefill_tokens, first_capacity=self._first_capacity)

    def _probe(self, probes: list[list[int]], *, continuation: list[int]) -> list[Tensor]:
        """Log-probs [1 + len(continuation), V] behind each probe and each token of the continuation."""
        assert self._decoder is not None
        session, logits_BV = self._decoder.start(probes, prompt_of_row=[0, 1], max_new=len(continuation) + 1)
        steps = [logits_BV.log_softmax(-1)]
        for token in continuation:
            steps.append(session.step(torch.full_like(logits_BV[:, 0], token, dtype=torch.long)).log_softmax(-1))
        return list(torch.stack(steps, 1))

    # ---- rollouts ------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        progress: Progress | None = None,
        *,
        share: tuple[int, int] = (0, 1),
    ) -> list[Group]:
        """`sampling.n` completions per prompt, in the order of the prompts. `progress(done, total)` counts completions.

        share: (part, parts) draws only that part of all rows, counted prompt by prompt; groups then lack the others.

        Raises RuntimeError before the first sync and ValueError for an empty prompt or one that leaves the model's
        context no room for a response.
        """
        if self._decoder is None:
            raise RuntimeError("the engine has no weights yet: call sync(policy) before generate()")
        prompt_ids = [self._encode(prompt, index=index) for index, prompt in enumerate(prompts)]
        everything, (part, parts) = list(self._rows(prompt_ids, sampling)), share
        mine = everything[len(everything) * part // parts : len(everything) * (part + 1) // parts]
        rows = sorted(mine, key=lambda row: len(prompt_ids[row.prompt]))
        completions: list[list[Completion | None]] = [[None] * sampling.n for _ in prompts]
        with _torch_threads(self._threads):
            for first in range(0, len(rows), self._max_rows):
                wave = rows[first : first + self._max_rows]
                for row, completion in zip(wave, self._run_wave(wave, prompt_ids, sampling), strict=True):
                    completions[row.prompt][row.sample] = completion
                if progress is not None:
                    progress(first + len(wave), len(rows))
        return [
            Group(prompt=prompt, prompt_ids=tuple(ids), completions=tuple(c for c in done if c is not None))
            for prompt, ids, done in zip(prompts, prompt_ids, completions, strict=True)
        ]

    def _encode(self, prompt: Prompt, *, index: int) -> list[int]:
        ids = encode_prompt(self._tokenizer, prompt)
        if not ids:
            raise ValueError(f"prompt {index} is empty: {prompt!r}")
        if self._context is not None and len(ids) >= self._context:
            raise ValueError(
                f"prompt {index} has {len(ids)} tokens, but the model's context is {self._context} and must hold at "
                f"least one token of the response; shorten the prompt: {prompt.user[:80]!r}"
            )
        return ids

    def _rows(self, prompt_ids: Sequence[Sequence[int]], sampling: Sampling) -> Iterator[_Row]:
        for prompt, ids in enumerate(prompt_ids):
            room = sampling.max_tokens if self._context is None else self._context - len(ids)
            for sample in range(sampling.n):
                yield _Row(prompt=prompt, sample=sample, limit=min(sampling.max_tokens, room))

    def _run_wave(
        self, wave: Sequence[_Row], prompt_ids: Sequence[Sequence[int]], sampling: Sampling
    ) -> list[Completion]:
        distinct: dict[tuple[int, ...], int] = {}
        slot_of_row = [distinct.setdefault(tuple(prompt_ids[row.prompt]), len(distinct)) for row in wave]
        # The decoder wants the rows of a prompt together; equal prompts may come from different places of the call.
        order = np.argsort(slot_of_row, kind="stable")
        ordered = [wave[i] for i in order]
        drawn = self._decode(list(distinct), sorted(slot_of_row), ordered, sampling)
        completions: list[Completion] = [None] * len(wave)  # type: ignore[list-item]
        for place, completion in zip(order, _to_completions(drawn, self._tokenizer), strict=True):
            completions[place] = completion
        return completions

    def _decode(
        self, prompts: list[tuple[int, ...]], slot_of_row: list[int], rows: Sequence[_Row], sampling: Sampling
    ) -> _Drawn:
        assert self._decoder is not None
        limits = torch.tensor([row.limit for row in rows])
        longest = int(limits.max())
        sampler = TokenSampler(
            sampling,
            keys=row_keys(
                sampling.seed,
                prompt_index=np.array([row.prompt for row in rows]),
                sample_index=np.array([row.sample for row in rows]),
            ),
        )
        record = _Record(rows=len(rows), steps=longest)
        eos = torch.tensor(self._eos_ids)
        session, logits_BV = self._decoder.start(prompts, prompt_of_row=slot_of_row, max_new=longest)
        place_B = torch.arange(len(rows))  # which row of the wave each row of the batch is
        alive_B = torch.ones(len(rows), dtype=torch.bool)
        for step in range(longest):
            token_B, logprob_B = sampler.draw(logits_BV, step=step)
            stopped_B = torch.isin(token_B, eos)
            record.write(place_B, token_B, logprob_B, step=step)
            ended_B = alive_B & (stopped_B | (limits[place_B] <= step + 1))
            record.end(place_B[ended_B], stopped_B[ended_B], length=step + 1)
            alive_B &= ~ended_B
            count = int(alive_B.sum())
            if count == 0:
                break
            if count < self._compact_below * len(alive_B):
                kept = alive_B.nonzero().squeeze(1)
                session.keep(kept)
                sampler.keep(kept.numpy())
                place_B, token_B, alive_B = place_B[kept], token_B[kept], alive_B[kept]
            logits_BV = session.step(token_B)
        return record.drawn()


class _Record:
    """Collects tokens step by step without leaving torch; rows x steps, doubled in steps when full."""

    def __init__(self, *, rows: int, steps: int) -> None:
        self._tokens = torch.zeros(rows, steps, dtype=torch.long)
        self._logprobs = torch.zeros(rows, steps)
        self._lengths = torch.zeros(rows, dtype=torch.long)
        self._stopped = torch.zeros(rows, dtype=torch.bool)

    def write(self, place_B: Tensor, token_B: Tensor, logprob_B: Tensor, *, step: int) -> None:
        self._tokens[place_B, step] = token_B
        self._logprobs[place_B, step] = logprob_B

    def end(self, place_E: Tensor, stopped_E: Tensor, *, length: int) -> None:
        self._lengths[place_E] = length
        self._stopped[place_E] = stopped_E

    def drawn(self) -> _Drawn:
        return _Drawn(
            tokens=self._tokens.numpy(),
            logprobs=self._logprobs.numpy(),
            lengths=self._lengths.numpy(),
            stopped=self._stopped.numpy(),
        )


def _to_completions(drawn: _Drawn, tokenizer: Any) -> list[Completion]:
    ids = [tokens[:length].tolist() for tokens, length in zip(drawn.tokens, drawn.lengths, strict=True)]
    texts = tokenizer.batch_decode(
        [row[:-1] if stopped else row for row, stopped in zip(ids, drawn.stopped, strict=True)],
        skip_special_tokens=True,
        clean_up_tokenization_spaces=False,
    )
    reasons: list[FinishReason] = ["stop" if stopped else "length" for stopped in drawn.stopped]
    return [
        Completion(text=text, token_ids=tuple(row), logprobs=tuple(logprobs[: len(row)].tolist()), finish_reason=reason)
        for text, row, logprobs, reason in zip(texts, ids, drawn.logprobs, reasons, strict=True)
    ]


@contextmanager
def _torch_threads(count: int) -> Iterator[None]:
    """torch's thread count is one number for the whole process: set it for the rollout only."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
