"""Requests to vLLM and its answers, for vLLM in this process and behind a server alike.

Each completion is a request of its own with a seed of its own, derived from its place in the call. So it does not
depend on what else is in the batch, and a share of the rows, or a repeated call, draws exactly the same tokens. The
prefix cache still reads a prompt's full blocks once per group.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from rzero.engines.rows import Row
from rzero.engines.sampling import row_keys
from rzero.interfaces import Progress
from rzero.types import Json, Sampling


@dataclass(frozen=True, slots=True, kw_only=True)
class RowRequest:
    """The prompt's token ids, and keyword arguments of vLLM's SamplingParams."""

    prompt_ids: tuple[int, ...]
    params: Json


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """Sampled token ids (a stop token included) and their log-probs (nats); none where they were not asked for."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]


class Finished:
    """Counts requests for a `Progress` (None: for nobody) as they are answered, from any thread."""

    def __init__(self, progress: Progress | None = None) -> None:
        self._progress = progress
        self._lock = threading.Lock()
        self._expected = self._answered = self._tokens = 0

    def expect(self, requests: int) -> None:
        """Says that so many more will be answered."""
        with self._lock:
            self._expected += requests

    def count(self, *drawn: Drawn) -> None:
        """Counts answers."""
        with self._lock:
            self._answered += len(drawn)
            self._tokens += sum(len(row.token_ids) for row in drawn)
            if self._progress is not None and drawn:
                self._progress(self._answered, self._expected, self._tokens)

    def counting(self, draw: Callable[[RowRequest], Drawn]) -> Callable[[RowRequest], Drawn]:
        """Returns `draw` with its answers counted."""

        def counted(request: RowRequest) -> Drawn:
            drawn = draw(request)
            self.count(drawn)
            return drawn

        return counted


def row_requests(
    rows: Sequence[Row],
    prompt_ids: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    eos_ids: Sequence[int],
    first: int = 0,
    logprobs: bool = True,
) -> list[RowRequest]:
    """Returns one request per row. first: the index in its call of the first of these prompts.

    Raises ValueError for vocabulary dropout: vLLM's log-probs would not know of it.
    """
    if sampling.vocabulary_dropout:
        raise ValueError("vocabulary_dropout needs engine=embedded: vLLM draws with the whole vocabulary")
    keys = row_keys(
        sampling.seed,
        prompt_index=np.array([first + row.prompt for row in rows], dtype=np.int64),
        sample_index=np.array([row.sample for row in rows], dtype=np.int64),
    )
    common = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "stop_token_ids": list(eos_ids),
        "ignore_eos": True,  # the policy says what ends a response, not the configuration of the model
        "logprobs": 0 if logprobs else None,  # those of the sampled tokens
        "detokenize": False,
    }
    return [
        RowRequest(
            prompt_ids=tuple(prompt_ids[row.prompt]),
            params={**common, "max_tokens": row.limit, "seed": int(key) >> 1},  # vLLM's seeds have 63 bits
        )
        for row, key in zip(rows, keys, strict=True)
    ]


def probe_requests(probes: Sequence[Sequence[int]], *, tokens: int) -> list[RowRequest]:
    """Greedy continuations of `tokens` tokens."""
    params = {"temperature": 0.0, "max_tokens": tokens, "ignore_eos": True, "logprobs": 0, "detokenize": False}
    return [RowRequest(prompt_ids=tuple(probe), params=dict(params)) for probe in probes]
