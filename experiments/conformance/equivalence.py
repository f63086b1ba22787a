"""Whether `Grader.same` is an equivalence relation and `Grader.classes` knows no order: `conformance same FILE`.

FILE holds recorded outputs. Triples are drawn among the answers to one problem and their respellings, and within
generated families; a triple fails if a member is not itself, a verdict depends on the direction, two equal pairs do not
make a third, or the classes of the three depend on their order. No triple may fail.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any

from experiments.conformance.grading import answer_of
from experiments.conformance.presets import preset
from experiments.conformance.rows import Report, RowResult, tracked
from experiments.conformance.spellings import family, respelt
from rzero.interfaces import Grader

TRIPLES, FAMILIES, SEED = 100_000, 400, 0
TRIED_AT_ONCE = 2000
LEAST_EQUAL = 1 / 3  # share of triples with two equal pairs, without which transitivity would not be tried
_MOST_RESPELT = 6  # answers of one problem that are respelt
_MAX_CHARS = 200

Triple = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class TripleReport(Report):
    """Passes when no triple failed and enough of them tried transitivity."""

    enough: bool = True

    @property
    def passed(self) -> bool:
        return self.enough and not any(result.wrong for result in self.results)


def check_same(rows: list[dict[str, Any]], path: Path) -> Report:
    """100,000 triples, half from the problems of the file, half generated."""
    draw = random.Random(SEED)
    pools = [*problem_pools(rows), *(family(draw) for _ in range(FAMILIES))]
    with preset("grader/default") as grader:
        classed = classed_pools(grader, pools)
        drawn = list(triples(classed, TRIPLES, draw))
        results, equal = [], 0
        for start in tracked(range(0, len(drawn), TRIED_AT_ONCE), title="same"):
            chunk = drawn[start : start + TRIED_AT_ONCE]
            for number, (triple, (why, two_equal)) in enumerate(zip(chunk, tried(grader, chunk), strict=True), start):
                results.append(RowResult(id=f"triple {number}", agree=not why, why=f"{triple}: {why}" if why else ""))
                equal += two_equal
    share = equal / len(results)
    return TripleReport(results, note=f"two equal pairs in {share:.3f} of the triples", enough=share >= LEAST_EQUAL)


def problem_pools(rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    """For each problem of the recorded outputs its gold answer, the answers given to it and their respellings."""
    answers: dict[str, dict[str, None]] = {}
    for row in rows:
        found = answers.setdefault(row["problem"], {})
        for answer in (row["gold"], answer_of(row)):
            if answer and answer.strip() and len(answer) <= _MAX_CHARS:
                found[answer] = None
    return [
        list(dict.fromkeys(spelling for answer in list(found)[:_MOST_RESPELT] for spelling in respelt(answer)))
        for found in answers.values()
        if found
    ]


def classed_pools(grader: Grader, pools: Sequence[Sequence[str]]) -> list[list[list[str]]]:
    """Each pool by what is the same as its first member, its second, ...: where equal pairs can be drawn from."""
    pairs = [(pool[0], text) for pool in pools for text in pool]
    verdicts = iter(grader.same_many(pairs))
    return [[[text for text in pool if next(verdicts)], list(pool)] for pool in pools]


def triples(pools: Sequence[Sequence[Sequence[str]]], number: int, draw: random.Random) -> Iterator[Triple]:
    """`number` triples, each from one pool, half of them from texts known to be the same as its first member."""
    for _ in range(number):
        same, everything = draw.choice(pools)
        near = same if draw.random() < 0.5 else everything
        yield draw.choice(near), draw.choice(near), draw.choice(near if draw.random() < 0.7 else everything)


def tried(grader: Grader, drawn: Sequence[Triple]) -> list[tuple[str, bool]]:
    """For each triple what is wrong with it ("" if nothing), and whether two of its pairs are equal."""
    pairs = [pair for a, b, c in drawn for pair in ((a, a), (a, b), (b, a), (b, c), (c, b), (a, c), (c, a))]
    verdicts = iter(grader.same_many(pairs))
    orders = [list(permutations(range(3))) for _ in drawn]
    classes = iter(
        grader.classes([[triple[i] for i in order] for triple, o in zip(drawn, orders, strict=True) for order in o])
    )
    found = []
    for _, permuted in zip(drawn, orders, strict=True):
        itself, ab, ba, bc, cb, ac, ca = (next(verdicts) for _ in range(7))
        partitions = {_partition(order, next(classes)) for order in permuted}
        why = []
        if not itself:
            why.append("not itself")
        if (ab, bc, ac) != (ba, cb, ca):
            why.append("not symmetric")
        if ab + bc + ac == 2:
            why.append("not transitive")
        if len(partitions) > 1:
            why.append("classes depend on the order")
        found.append(("; ".join(why), ab + bc + ac >= 2))
    return found


def _partition(order: Sequence[int], classes: Sequence[int]) -> frozenset[frozenset[int]]:
    """Which members of a triple are together, by their places in it."""
    return frozenset(
        frozenset(place for place, number in zip(order, classes, strict=True) if number == one) for one in set(classes)
    )
