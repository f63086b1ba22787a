"""Draws the completions of many rows, some side by side, a token each at a time.

Rows that have ended are taken out whenever the share still alive falls below a bound. Where the session takes in others
(`Joinable`) and `refill` asks for it, rows that wait take their place, so that long responses are not waited for by a
machine that is nearly idle. Otherwise the rest waits until all rows have ended.

Shapes: B rows side by side, Y of them that end, C tokens of a response, V vocabulary.
"""

# ruff: noqa: N815 (fields carry their shape as a suffix, like every other tensor name)

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rzero.engines.embedded.decoder import Joinable, Starter
from rzero.engines.sampling import TokenSampler
from rzero.interfaces import Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Rows of one prompt that begin together. rows: their places among all rows; ids: the prompt's tokens."""

    ids: Sequence[int]
    rows: Sequence[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """Tokens and log-probs of all rows, [rows, C], of which `lengths` count. `stopped`: ended by an eos token."""

    tokens: NDArray[np.int64]
    logprobs: NDArray[np.float32]
    lengths: NDArray[np.int64]
    stopped: NDArray[np.bool_]


@dataclass(slots=True, kw_only=True)
class Tally:
    """Counts the completions of a call, and its tokens, for a `Progress`."""

    progress: Progress | None
    total: int
    ended: int = 0
    tokens: int = 0

    def count(self, *, ended: int, tokens: int) -> None:
        self.ended += ended
        self.tokens += tokens
        if self.progress is not None:
            self.progress(self.ended, self.total, self.tokens)


@dataclass(slots=True)
class _Rows:
    """Rows side by side: their places among all rows, how many tokens each has drawn, and which go on."""

    place_B: NDArray[np.int64]
    step_B: NDArray[np.int64]
    alive_B: NDArray[np.bool_]

    @classmethod
    def at(cls, place_B: NDArray[np.int64]) -> _Rows:
        """Rows that begin."""
        return cls(place_B, np.zeros_like(place_B), np.ones(len(place_B), dtype=bool))

    def keep(self, kept_Y: NDArray[np.int64]) -> None:
        self.place_B, self.step_B, self.alive_B = self.place_B[kept_Y], self.step_B[kept_Y], self.alive_B[kept_Y]

    def join(self, others: _Rows) -> None:
        self.place_B = np.concatenate([self.place_B, others.place_B])
        self.step_B = np.concatenate([self.step_B, others.step_B])
        self.alive_B = np.concatenate([self.alive_B, others.alive_B])


class Drawing:
    """`run()` draws all rows.

    sampler: makes the sampler of some rows. limits: tokens that each row may have. room: rows side by side; none of
    `asked` has more.
    """

    def __init__(
        self, asked: Sequence[Asked], starter: Starter, *, sampler: Callable[[Sequence[int]], TokenSampler],
        limits: Sequence[int], eos_ids: Sequence[int], room: int, compact_below: float, refill: bool, tally: Tally,
    ) -> None:  # fmt: skip
        self._waiting = deque(asked)
        self._starter = starter
        self._sampler = sampler
        self._tally = tally
        self._limits = np.array(limits)
        self._eos_ids = tuple(eos_ids)
        self._room = room
        self._compact_below = compact_below
        self._refill = refill
        rows, longest = len(limits), max(limits)
        self._drawn = Drawn(
            tokens=np.zeros((rows, longest), dtype=np.int64), logprobs=np.zeros((rows, longest), dtype=np.float32),
            lengths=np.zeros(rows, dtype=np.int64), stopped=np.zeros(rows, dtype=bool),
        )  # fmt: skip

    def run(self) -> Drawn:
        while self._waiting:
            self._run_batch()
        return self._drawn

    def _run_batch(self) -> None:
        """Draws rows that begin together, and all that join them."""
        longest = int(self._limits.max())
        prompts, slots, rows = self._begin(self._room)
        session, logits_BV = self._starter.start(prompts, prompt_of_row=slots, max_new=longest)
        sampler = self._sampler(rows.place_B.tolist())
        eos = torch.tensor(self._eos_ids, device=logits_BV.device)
        while True:
            token_B, logprob_B = sampler.draw(logits_BV, step=rows.step_B)
            self._write(rows, token_B, logprob_B, torch.isin(token_B, eos))
            alive = int(rows.alive_B.sum())
            if alive == 0:
                return
            # rows that have ended are fed all the same, but never beyond what there is room for
            compact = alive < self._compact_below * len(rows.alive_B) or bool((rows.step_B == longest).any())
            if compact:
                kept_Y = rows.alive_B.nonzero()[0]
                rows.keep(kept_Y)
                sampler.keep(kept_Y)
                kept = torch.from_numpy(kept_Y).to(token_B.device)
                session.keep(kept)
                token_B = token_B[kept]
            logits_BV = session.step(token_B)
            if not (compact and self._refill and isinstance(session, Joinable)):
                continue
            prompts, slots, others = self._begin(self._room - alive)
            if prompts:
                logits_BV = logits_BV.clone()  # joining may write over it
                logits_BV = torch.cat([logits_BV, session.join(prompts, prompt_of_row=slots)])
                sampler.join(self._sampler(others.place_B.tolist()))
                rows.join(others)

    def _begin(self, room: int) -> tuple[list[Sequence[int]], list[int], _Rows]:
        """Takes from what waits, in order, what there is room for: prompts, the prompt of each row, and the rows."""
        taken: list[Asked] = []
        while self._waiting and len(self._waiting[0].rows) <= room:
            taken.append(self._waiting.popleft())
            room -= len(taken[-1].rows)
        slots = [slot for slot, asked in enumerate(taken) for _ in asked.rows]
        places = np.array([row for asked in taken for row in asked.rows], dtype=np.int64)
        return [asked.ids for asked in taken], slots, _Rows.at(places)

    def _write(self, rows: _Rows, token_B: Tensor, logprob_B: Tensor, stopped: Tensor) -> None:
        """Keeps what was drawn, and notes which rows go on."""
        drawn, stopped_B, place_B = self._drawn, stopped.cpu().numpy(), rows.place_B
        drawn.tokens[place_B, rows.step_B] = token_B.cpu().numpy()
        drawn.logprobs[place_B, rows.step_B] = logprob_B.cpu().numpy()
        rows.step_B = rows.step_B + 1
        ended_B = rows.alive_B & (stopped_B | (self._limits[place_B] <= rows.step_B))
        drawn.lengths[place_B[ended_B]] = rows.step_B[ended_B]
        drawn.stopped[place_B[ended_B]] = stopped_B[ended_B]
        self._tally.count(ended=int(ended_B.sum()), tokens=int(rows.alive_B.sum()))
        rows.alive_B = rows.alive_B & ~ended_B
