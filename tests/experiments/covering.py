"""A small set of rows in which every pair of options of different factors occurs: greedy, the same at every call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

Row = dict[str, str]
Cell = tuple[str, str]
"""A factor and one of its options."""


def covering(factors: Mapping[str, Sequence[str]], *, refused: Sequence[frozenset[Cell]] = ()) -> list[Row]:
    """Rows that give every factor an option. Each pair of cells occurs in one of them, unless it lies in `refused`.

    No row holds all cells of a member of `refused`; AssertionError where a pair can therefore have no row.
    """
    cells = [(factor, option) for factor, options in factors.items() for option in options]
    open_pairs = {
        frozenset(pair)
        for pair in combinations(cells, 2)
        if pair[0][0] != pair[1][0] and frozenset(pair) not in refused
    }
    order = {frozenset(pair): place for place, pair in enumerate(combinations(cells, 2))}
    rows = []
    while open_pairs:
        row = _row(dict(min(open_pairs, key=order.__getitem__)), factors, open_pairs, refused)
        covered = {frozenset(pair) for pair in combinations(row.items(), 2)} & open_pairs
        assert covered, "a pair has no row that is allowed"
        open_pairs -= covered
        rows.append({factor: row[factor] for factor in factors})
    return rows


def _row(
    start: Row,
    factors: Mapping[str, Sequence[str]],
    open_pairs: set[frozenset[Cell]],
    refused: Sequence[frozenset[Cell]],
) -> Row:
    """`start` with an option for every other factor, each the one that closes most pairs with those chosen before."""
    row = dict(start)
    for factor in sorted(factors.keys() - start, key=lambda name: (-len(factors[name]), name)):

        def closed(option: str, factor: str = factor) -> int:
            return sum(frozenset(((factor, option), cell)) in open_pairs for cell in row.items())

        allowed = [option for option in factors[factor] if _allowed(row | {factor: option}, refused)]
        row[factor] = max(allowed, key=closed)
    return row


def _allowed(row: Row, refused: Sequence[frozenset[Cell]]) -> bool:
    return not any(cells <= row.items() for cells in refused)
