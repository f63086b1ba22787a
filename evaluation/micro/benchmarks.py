"""The held-out benchmarks of the micro world: one per family, levels spread evenly."""

from __future__ import annotations

import random
from collections.abc import Sequence

from evaluation.micro.corpus import draw
from evaluation.micro.world import FAMILIES, SPLIT_BUCKET, solve
from evaluation.problems import Benchmark, BenchmarkItem


def micro_benchmarks(*, split: str, items: int, levels: Sequence[int], seed: int) -> list[Benchmark]:
    """`items` distinct questions for each family, a pure function of the arguments.

    split: "dev" for tuning a recipe, "test" for reporting it. levels: the levels to spread the items over; a family's
    own highest level bounds them.
    """
    if split not in SPLIT_BUCKET:
        raise ValueError(f"benchmarks.split must be one of {', '.join(SPLIT_BUCKET)}, got {split!r}")
    benchmarks = []
    for family in FAMILIES.values():
        rng = random.Random(f"{family.name}/{split}/{seed}")
        rows: dict[str, BenchmarkItem] = {}
        tries = 0
        while len(rows) < items:
            tries += 1
            if tries > 100 * items:
                raise ValueError(
                    f"family {family.name} has fewer than {items} questions in split {split}; ask for less"
                )
            level = min(levels[len(rows) % len(levels)], family.levels)
            problem, question = draw(rng, family, level, split=split)
            item = BenchmarkItem(id=f"{family.name}-{len(rows)}", question=question, answer=solve(problem), level=level)
            rows.setdefault(question, item)
        benchmarks.append(Benchmark(name=family.name, group=family.group, items=tuple(rows.values())))
    return benchmarks
