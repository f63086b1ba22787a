"""What parts beyond the paper cost: the responses that are drawn for them, and seconds (docs/metrics.md#prices)."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from rzero.interfaces import Embedder


class Prices:
    """Adds up what each part cost until somebody takes the sums."""

    def __init__(self) -> None:
        self._sums: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def of(self, part: str, *, responses: int = 0) -> Iterator[None]:
        """Counts responses, and the seconds that the context lasts, as the price of `part`."""
        started = time.monotonic()
        yield
        self._sums[f"extra/timing_s/{part}"] += time.monotonic() - started
        if responses:
            self._sums[f"extra/responses/{part}"] += responses

    def take(self) -> dict[str, float]:
        """Returns the sums since the last call as metrics; empty where nothing cost anything."""
        taken = dict(sorted(self._sums.items()))
        self._sums.clear()
        return taken


class PricedEmbedder:
    """An `Embedder` whose seconds are the price of `embedding`: what it is asked for serves several parts at once."""

    def __init__(self, embedder: Embedder, *, prices: Prices) -> None:
        self._embedder, self._prices = embedder, prices

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        with self._prices.of("embedding"):
            return self._embedder.embed(texts)
