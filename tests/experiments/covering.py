"""A small set of rows in which every pair of options of different factors occurs: greedy, the same at every call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

Row = dict[str, str]
Cell = tuple[str, str]
"""A factor and one of its options."""


def covering(factors: Mapping[str, Sequence[str]]) -> list[Row]:
    """Rows that give every factor an option. Each pair of options of different factors occurs in one of them."""
    cells = [(factor, option) for factor, options in factors.items() for option in options]
    order = {frozenset(pair): place for place, pair in enumerate(combinations(cells, 2)) if pair[0][0] != pair[1][0]}
    open_pairs = set(order)
    rows = []
    while open_pairs:
        first = min(open_pairs, key=lambda pair: order[pair])
        row = _row(dict(first), factors, open_pairs)
        open_pairs -= {frozenset(pair) for pair in combinations(row.items(), 2)}
        rows.append({factor: row[factor] for factor in factors})
    return rows


def _row(start: Row, factors: Mapping[str, Sequence[str]], open_pairs: set[frozenset[Cell]]) -> Row:
    """`start` with an option for every other factor, each the one that closes most pairs with those chosen before."""
    row = dict(start)
    for factor in sorted(factors.keys() - start, key=lambda name: (-len(factors[name]), name)):

        def closed(option: str, factor: str = factor) -> int:
            return sum(frozenset(((factor, option), cell)) in open_pairs for cell in row.items())

        row[factor] = max(factors[factor], key=closed)
    return row
