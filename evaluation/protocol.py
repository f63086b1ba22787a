"""How often each benchmark is asked, and how answers are drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

Decoding = Literal["greedy", "sampled"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """Everything is asked once greedily; the benchmarks in `sampled` are also asked `k` times by sampling.

    A benchmark that is not sampled counts its greedy answer as mean@1. `temperature=0` with several samples is the
    authors' way: one greedy answer, repeated. max_tokens lowers the limit of a task's definition (None leaves it); it
    is for models with a short context.
    headline: the columns of the result table whose mean is the score (`evaluation.metrics.Scores`).
    """

    sampled: Sequence[str] = ()
    k: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int | None = None
    seed: int = 0
    headline: tuple[str, ...] = ("mean@k",)

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"benchmarks.protocol.k must be at least 1, got {self.k}")

    def decodings(self, benchmark: str) -> tuple[Decoding, ...]:
        return ("greedy", "sampled") if benchmark in self.sampled else ("greedy",)

    def repeats(self, decoding: Decoding) -> int:
        return self.k if decoding == "sampled" else 1

    def options(self, decoding: Decoding) -> dict[str, Any]:
        """lm-eval's generation_kwargs, as far as the protocol decides them."""
        temperature = self.temperature if decoding == "sampled" else 0.0
        options: dict[str, Any] = {"do_sample": temperature > 0, "temperature": temperature}
        if temperature > 0:
            options |= {"top_p": self.top_p, "top_k": self.top_k}
        if self.max_tokens is not None:
            options["max_gen_toks"] = self.max_tokens
        return options
