"""The held-out benchmarks of the micro world: one per family, levels spread evenly."""

from __future__ import annotations

import random
from collections.abc import Sequence

from evaluation.micro.corpus import draw
from evaluation.micro.world import FAMILIES, SPLIT_BUCKET, solve
from evaluation.problems import Benchmark, BenchmarkItem


def micro_benchmarks(
    *, split: str, items: int, levels: Sequence[int], seed: int, families: Sequence[str] = tuple(FAMILIES)
) -> list[Benchmark]:
    """Returns `items` distinct questions for each family, a pure function of the arguments.

    split: "dev" for tuning a recipe, "test" for reporting it. levels: the levels to spread the items over, from 1 to
    the hardest of every family. Raises ValueError for a level that a family does not have, and where it has too few
    questions.
    """
    if split not in SPLIT_BUCKET:
        raise ValueError(f"benchmarks.split must be one of {', '.join(SPLIT_BUCKET)}, got {split!r}")
    benchmarks = []
    for family in (FAMILIES[name] for name in families):
        if wrong := [level for level in levels if not 1 <= level <= family.hardest]:
            raise ValueError(
                f"benchmarks.levels: {family.name} has levels 1 to {family.hardest}, got {wrong}; leave it out of "
                "benchmarks.families or ask for others"
            )
        rng = random.Random(f"{family.name}/{split}/{seed}")
        rows: dict[str, BenchmarkItem] = {}
        tries = 0
        while len(rows) < items:
            tries += 1
            if tries > 100 * items:
                raise ValueError(
                    f"family {family.name} has fewer than {items} questions in split {split}; ask for less"
                )
            level = levels[len(rows) % len(levels)]
            problem, question = draw(rng, family, level, split=split)
            item = BenchmarkItem(id=f"{family.name}-{len(rows)}", question=question, answer=solve(problem), level=level)
            rows.setdefault(question, item)
        benchmarks.append(Benchmark(name=family.name, group=family.group, items=tuple(rows.values())))
    return benchmarks
