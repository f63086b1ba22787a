r"""Sets of real numbers: intervals, unions, inequalities in one unknown, the reals without some points."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import pairwise

from rzero.grading.structure import split_collection, split_top
from rzero.grading.values import Expression, Number, Region, Row, Value

Read = Callable[[str], Value]
End = tuple[Fraction, int]  # a number and a side of it: -1 just below, 0 itself, 1 just above

INFINITY, MINUS_INFINITY = Expression("\\infty"), Expression("-\\infty")
ALL = Region((Row((MINUS_INFINITY, INFINITY), "()"),))
_UNKNOWN = re.compile(r"[a-zA-Z](?:_\{?\w\}?)?|\\(?!pi|infty)[a-z]+|\|[a-zA-Z]\|")
_SIGN = re.compile(r"\\leq(?![a-zA-Z])|\\geq(?![a-zA-Z])|<|>")
_OR = re.compile(r"\s?,?\s?(?:\\text\{\s?,?\s?or\s?\}|(?<![a-zA-Z\\])or(?![a-zA-Z])|\\(?:lor|vee|cup)(?![a-zA-Z]))\s?")
_AND = re.compile(
    r"\s?,?\s?(?:\\text\{\s?,?\s?and\s?\}|(?<![a-zA-Z\\])and(?![a-zA-Z])|\\(?:land|wedge)(?![a-zA-Z]))\s?"
)
_NOT_EQUAL = re.compile(r"([a-zA-Z])\s?\\neq\s?(.+)")
_WITHOUT = re.compile(r"(.*?)\s?(?:\\setminus|\\backslash|(?<=[})])\s?-)\s?\\?\{(.*?)\\?\}")
_EXCEPT = re.compile(
    r"(?:\\text\{)?\s?(?:all )?(?:real numbers?|reals?)(?: x)? except(?: for)?\s?\}?\s?(?:[a-z] = )?(.+)"
)
_BUILDER = re.compile(r"\\?\{\s?([a-zA-Z])\s?(?:\\in\s?\\mathbb\{R\}\s?)?(?:\||:|\\colon)\s?(.+?)\\?\}")
_MAX_INTERVALS = 16
_MARKS = ("<", ">", "\\leq", "\\geq", "\\neq", "\\cup", "\\setminus", "\\backslash", "\\mathbb", "except")


def read_region(text: str, read: Read) -> Region | None:
    """The region that an inequality, a union or a complement describes; None for anything else. One interval in
    brackets is a row as well, and is left to be read as one."""
    if not any(mark in text for mark in _MARKS):
        return None
    if found := _BUILDER.fullmatch(text):
        text = found[2].strip()
    if found := _NOT_EQUAL.fullmatch(text):
        return _without(ALL, found[2], read)
    if found := _EXCEPT.fullmatch(text):
        return _without(ALL, found[1], read)
    if (found := _WITHOUT.fullmatch(text)) and "\\mathbb" in found[1]:
        return _without(ALL, found[2], read) if re.fullmatch(r"\\mathbb\s?\{?R\}?", found[1].strip()) else None
    parts = [part.strip() for part in _OR.split(text)]
    if len(parts) > _MAX_INTERVALS:
        return None
    read_parts = [_joined(part, read, alone="\\cup" not in text) for part in parts]
    regions = [region for region in read_parts if region is not None]
    unknowns = {region.unknown for region in regions if region.unknown}
    if len(regions) < len(parts) or len(unknowns) > 1:
        return None
    return normal(Region(tuple(r for region in regions for r in region.intervals), next(iter(unknowns), None)))


def _joined(text: str, read: Read, *, alone: bool) -> Region | None:
    """An inequality, several that hold together, or in a union (not `alone`) an interval or a set of points."""
    parts = [_inequality(part.strip(), read) for part in _AND.split(text)]
    if all(parts):
        regions = [part for part in parts if part is not None]
        if len({region.unknown for region in regions}) > 1:
            return None
        whole = regions[0]
        for region in regions[1:]:
            both = _intersection(whole, region)
            if both is None:
                return None
            whole = both
        return whole
    if alone:
        return None
    member = re.match(r"([a-zA-Z])\s?\\in(?![a-zA-Z])\s?", text)
    collection = split_collection(text[member.end() :] if member else text)
    single = re.fullmatch(r"\\\{([^{},]+)\\\}", text)
    if single or (collection is not None and collection.brackets == "{}"):
        items = [single[1]] if single else list(collection.items) if collection else []
        return Region(tuple(Row((point, point), "[]") for point in map(read, items)))
    if collection is None or len(collection.items) != 2 or not set(collection.brackets) <= set("()[]"):
        return None
    return Region((Row(tuple(read(end) for end in collection.items), collection.brackets),))


def _inequality(text: str, read: Read) -> Region | None:
    """`x < 3`, `3 > x`, `0 < x \\leq 5` in one unknown that stands alone; None for anything else."""
    sides = [side.strip() for side in _SIGN.split(text)]
    signs = _SIGN.findall(text)
    if not 2 <= len(sides) <= 3 or not all(sides):
        return None
    if len({sign in ("<", "\\leq") for sign in signs}) > 1:
        return None
    if signs[0] not in ("<", "\\leq"):  # read from the right
        sides, signs = sides[::-1], signs[::-1]
    strict = [sign in "<>" for sign in signs]
    place = 1 if len(sides) == 3 else int(_UNKNOWN.fullmatch(sides[1]) is not None)
    unknown = sides[place]
    others = sides[:place] + sides[place + 1 :]
    if not _UNKNOWN.fullmatch(unknown) or unknown.startswith("|") or any(_UNKNOWN.fullmatch(side) for side in others):
        return None
    ends = [read(side) for side in others]
    if len(sides) == 3:
        return Region((Row(tuple(ends), ("(" if strict[0] else "[") + (")" if strict[1] else "]")),), unknown)
    if place == 0:
        return Region((Row((MINUS_INFINITY, ends[0]), "(" + (")" if strict[0] else "]")),), unknown)
    return Region((Row((ends[0], INFINITY), ("(" if strict[0] else "[") + ")"),), unknown)


def _without(region: Region, points: str, read: Read) -> Region | None:
    """The reals without the points that `points` lists."""
    items = split_top(points.replace("\\text{ and }", ",").replace(" and ", ","), ",")
    values = [value for value in map(read, items or []) if isinstance(value, Number)]
    if not items or len(values) < len(items):
        return None
    ends: list[Value] = [MINUS_INFINITY, *sorted(set(values), key=lambda number: number.value), INFINITY]
    return Region(tuple(Row((low, high), "()") for low, high in pairwise(ends)))


def normal(region: Region) -> Region:
    """Intervals in order, those that meet joined; a region with an end that is no number is left as it is."""
    bounds = [_bounds(interval) for interval in region.intervals]
    known = [bound for bound in bounds if bound is not None]
    if len(known) < len(bounds):
        return region
    merged: list[tuple[End, End]] = []
    for low, high in sorted(bound for bound in known if bound[0] <= bound[1]):
        if merged and (low <= merged[-1][1] or (low[0] == merged[-1][1][0] and low[1] - merged[-1][1][1] == 1)):
            merged[-1] = (merged[-1][0], max(merged[-1][1], high))
        else:
            merged.append((low, high))
    return Region(tuple(_interval(low, high) for low, high in merged), region.unknown)


def _intersection(left: Region, right: Region) -> Region | None:
    """Returns what lies in both; None where an end is no number, unless each gives one end."""
    first, second = left.intervals[0], right.intervals[0]
    for low, high in ((first, second), (second, first)):
        if low.items[1] == INFINITY and high.items[0] == MINUS_INFINITY:
            return Region((Row((low.items[0], high.items[1]), low.brackets[0] + high.brackets[1]),), left.unknown)
    bounds = _bounds(first), _bounds(second)
    if bounds[0] is None or bounds[1] is None:
        return None
    start, end = max(bounds[0][0], bounds[1][0]), min(bounds[0][1], bounds[1][1])
    return Region((_interval(start, end),) if start <= end else (), left.unknown)


_FAR = Fraction(10) ** 500  # beyond every number that is read


def _bounds(interval: Row) -> tuple[End, End] | None:
    low, high = (_position(end) for end in interval.items)
    if low is None or high is None:
        return None
    return (low, int(interval.brackets[0] == "(")), (high, -int(interval.brackets[1] == ")"))


def _position(end: Value) -> Fraction | None:
    if isinstance(end, Number):
        return end.value
    if end in (INFINITY, Expression("+\\infty")):
        return _FAR
    return -_FAR if end == MINUS_INFINITY else None


def _interval(low: End, high: End) -> Row:
    ends: Sequence[Value] = [
        INFINITY if end[0] == _FAR else MINUS_INFINITY if end[0] == -_FAR else Number(end[0]) for end in (low, high)
    ]
    return Row(tuple(ends), ("[" if low[1] == 0 else "(") + ("]" if high[1] == 0 else ")"))


def as_region(value: Value) -> Region | None:
    """A region, or the interval that a row of two ends is; None for anything else."""
    if isinstance(value, Region):
        return value
    if isinstance(value, Row) and len(value.items) == 2 and set(value.brackets) <= set("()[]"):
        return Region((value,))
    return None
