"""Do generated questions repeat benchmark questions? n-gram overlap, word for word.

A word is a run of letters and digits, or a single sign; case and white space do not count. A question is *overlapping*
with a benchmark question when they share an n-gram of `n` words (13 is the usual length, from GPT-3's appendix C; short
questions are compared whole), and *contained* when at least `share` of its n-grams come from one benchmark question.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from evaluation.problems import Benchmark

_WORD = re.compile(r"[^\W_]+|[^\w\s]")
Gram = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """A generated question and the benchmark question it shares most n-grams with; `share` of its own, in (0, 1]."""

    question: int
    item: str
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """One benchmark against one set of questions. `overlapping` and `contained` count questions, worst hits first."""

    benchmark: str
    questions: int
    overlapping: int
    contained: int
    hits: tuple[Hit, ...]


def words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


def grams(text: str, *, n: int) -> list[Gram]:
    """All n-grams; of a shorter text the whole of it, of an empty one none."""
    tokens = words(text)
    if len(tokens) < n:
        return [tuple(tokens)] if tokens else []
    return [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]


def overlaps(
    questions: Sequence[str], benchmarks: Iterable[Benchmark], *, n: int = 13, share: float = 0.8, shown: int = 10
) -> list[Overlap]:
    """Every benchmark against `questions`; linear in the text. `shown` bounds the hits that are listed."""
    if n < 1 or not 0 < share <= 1:
        raise ValueError(f"contamination needs n >= 1 and 0 < share <= 1, got n={n}, share={share}")
    own = [grams(question, n=n) for question in questions]
    return [_against(own, benchmark, n=n, share=share, shown=shown) for benchmark in benchmarks]


def _against(own: Sequence[Sequence[Gram]], benchmark: Benchmark, *, n: int, share: float, shown: int) -> Overlap:
    where: dict[Gram, set[int]] = defaultdict(set)
    for number, item in enumerate(benchmark.items):
        for gram in grams(item.question, n=n):
            where[gram].add(number)
    hits = []
    for index, mine in enumerate(own):
        shared = Counter(number for gram in mine for number in where.get(gram, ()))
        if shared:
            number, count = max(shared.items(), key=lambda pair: (pair[1], -pair[0]))
            hits.append(Hit(question=index, item=benchmark.items[number].id, share=count / len(mine)))
    hits.sort(key=lambda hit: (-hit.share, hit.question))
    return Overlap(
        benchmark=benchmark.name,
        questions=len(own),
        overlapping=len(hits),
        contained=sum(hit.share >= share for hit in hits),
        hits=tuple(hits[:shown]),
    )
