"""The protocol of an evaluation: how often each benchmark is asked, and how responses are drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from rzero.types import Sampling

Decoding = Literal["greedy", "sampled"]
Truncated = Literal["read", "wrong"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """Everything is asked once greedily; the benchmarks in `sampled` are also asked `k` times by sampling.

    A benchmark that is not sampled counts its greedy answer as mean@1. `temperature=0` with several samples is the
    authors' way: one greedy answer, repeated. max_tokens takes the place of the benchmarks' own limits (None leaves
    them). truncated: a response that ran into the limit is read like any other, or has no answer, whatever it holds
    (`wrong`): then nothing is gained by boxing early and going on without an end. seed fixes the samples: every model
    is asked with the same random numbers, so that differences are paired. headline: the columns of the result table
    whose mean is the score (`evaluation.metrics.Scores`).
    """

    sampled: Sequence[str] = ()
    k: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int | None = None
    truncated: Truncated = "read"
    seed: int = 0
    headline: tuple[str, ...] = ("mean@k",)

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"benchmarks.protocol.k must be at least 1, got {self.k}")
        if self.truncated not in get_args(Truncated):
            raise ValueError(f"benchmarks.protocol.truncated must be read or wrong, got {self.truncated!r}")

    def decodings(self, benchmark: str) -> tuple[Decoding, ...]:
        """The ways in which a benchmark is asked."""
        return ("greedy", "sampled") if benchmark in self.sampled else ("greedy",)

    def sampling(self, decoding: Decoding, *, max_tokens: int | None) -> Sampling:
        """The sampling of a decoding. `max_tokens`: the benchmark's own limit, used where the protocol has none.

        Raises ValueError when neither has one.
        """
        limit = max_tokens if self.max_tokens is None else self.max_tokens
        if limit is None:
            raise ValueError("benchmarks.protocol.max_tokens must be given where benchmarks.definitions have no limit")
        if decoding == "greedy":
            return Sampling(n=1, temperature=0.0, max_tokens=limit, seed=self.seed)
        return Sampling(
            n=self.k,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            max_tokens=limit,
            seed=self.seed,
        )
