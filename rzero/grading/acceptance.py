"""Whether a prediction answers as a reference does: the forgiving relation, for evaluation and gold controls.

`claim` reduces two values to what would have to be true: a verdict, or a formula over comparisons that only algebra can
make (`Pair`). A whole batch of claims is made first, its pairs are compared in one go, and `holds` reads the verdicts.

Forgiven are a unit, a percent sign, a name, a half of the day, a year or brackets missing on one side; a percent sign
counts as one of a hundred or as a unit left out; a decimal of six digits or more equals what rounds to it. Different
units, names and times are different. The relation is symmetric and, for all this forgiving, not transitive: votes use
`rzero.grading.identity`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeVar

from rzero.grading import normalise, numeric
from rzero.grading.regions import as_region
from rzero.grading.values import (
    Assignment,
    Clock,
    Date,
    Expression,
    Listing,
    Matrix,
    Measure,
    Named,
    Nothing,
    Number,
    Option,
    Quantity,
    Region,
    Row,
    Value,
    Words,
    tex,
)  # fmt: skip

Item = TypeVar("Item")
Kind = TypeVar("Kind")
_ITEM_BUDGET = 400  # item pairs of two collections


@dataclass(frozen=True, slots=True)
class Pair:
    """Two formulas that have to be equal, in one order whichever side they came from."""

    left: str
    right: str


@dataclass(frozen=True, slots=True)
class Every:
    claims: tuple[Claim, ...]


@dataclass(frozen=True, slots=True)
class Some:
    claims: tuple[Claim, ...]


Claim = bool | Pair | Every | Some


def pairs(claim: Claim) -> Iterator[Pair]:
    """The comparisons that a claim rests on."""
    match claim:
        case Pair():
            yield claim
        case Every(parts) | Some(parts):
            for part in parts:
                yield from pairs(part)


def holds(claim: Claim, verdicts: Mapping[Pair, bool]) -> bool:
    """Whether a claim is true, given the verdicts on its pairs."""
    match claim:
        case Pair():
            return verdicts[claim]
        case Every(parts):
            return all(holds(part, verdicts) for part in parts)
        case Some(parts):
            return any(holds(part, verdicts) for part in parts)
        case _:
            return claim


def claim(left: Value, right: Value) -> Claim:
    """Returns what makes `left` and `right`, both with their units looked up, one answer. Symmetric."""
    if isinstance(left, Nothing) or isinstance(right, Nothing):
        return False
    if left == right:
        return True
    for rule in (_assigned, _named, _measured, _numbers, _letters, _plain, _listed, _rows, _formulas):
        verdict = rule(left, right)
        if verdict is not None:
            return verdict
    return False


def _every(claims: Sequence[Claim]) -> Claim:
    return False if False in claims else Every(tuple(part for part in claims if part is not True))


def _some(claims: Sequence[Claim]) -> Claim:
    return True if True in claims else Some(tuple(part for part in claims if part is not False))


def pair(left: str, right: str) -> Pair:
    """Two formulas that have to be equal; the order does not matter."""
    return Pair(*sorted((left, right)))


def _either(left: Value, right: Value, kind: type[Kind]) -> tuple[Kind, Value] | None:
    """(the one of `kind`, the other) where one of two values is of `kind`."""
    if isinstance(left, kind):
        return left, right
    return (right, left) if isinstance(right, kind) else None


def _is_equation(value: Value) -> bool:
    return isinstance(value, Expression) and "=" in value.tex


def _named(left: Value, right: Value) -> Claim | None:
    """`x = 5` equals 5 and `x = 5`; under another name it is compared as an equation."""
    if isinstance(left, Named) and isinstance(right, Named):
        if left.name == right.name:
            return claim(left.value, right.value)
        return pair(left.equation, right.equation)
    found = _either(left, right, Named)
    if found is None:
        return None
    named, other = found
    if isinstance(other, Expression) and _is_equation(other):
        return pair(named.equation, other.tex)
    if isinstance(other, Region) and other.unknown not in (None, named.name):
        return False
    return claim(named.value, other)


def _assigned(left: Value, right: Value) -> Claim | None:
    """Unknowns in any order; against values without names, the values in the order written."""
    if isinstance(left, Assignment) and isinstance(right, Assignment):
        first, second = dict(left.pairs), dict(right.pairs)
        if first.keys() != second.keys() or len(first) < len(left.pairs) or len(second) < len(right.pairs):
            return _same_items(left.pairs, right.pairs, _same_named)
        return _every([claim(first[name], second[name]) for name in first])
    found = _either(left, right, Assignment)
    if found is None:
        return None
    values, other = tuple(value for _, value in found[0].pairs), found[1]
    if isinstance(other, Named):
        if any(name.partition("_")[0] != other.name for name, _ in found[0].pairs):
            return False
        other = other.value
    if isinstance(other, Row):
        return claim(Row(values, other.brackets), other)
    is_one_unknown = len({name.partition("_")[0] for name, _ in found[0].pairs}) == 1  # x_1 and x_2: in any order
    if is_one_unknown or not isinstance(other, Listing):
        return claim(Listing(values), other)
    return claim(Row(values, "()"), other)


def _same_named(left: tuple[str, Value], right: tuple[str, Value]) -> Claim:
    return left[0] == right[0] and claim(left[1], right[1])


def _measured(left: Value, right: Value) -> Claim | None:
    """Two known units must measure the same; a unit on one side only is forgiven."""
    if isinstance(left, Quantity) and isinstance(right, Quantity):
        assert left.measure is not None
        assert right.measure is not None
        if left.measure.dimension != right.measure.dimension:
            return False
        if left.measure == right.measure:
            return claim(left.value, right.value)
        return claim(converted(left), converted(right))
    found = _either(left, right, Quantity)
    if found is None:
        return None
    quantity, other = found
    if isinstance(other, Number) and other.percent:
        return False
    if isinstance(other, Region | Words | Clock | Date | Option):
        return False
    assert quantity.measure is not None
    if is_degrees(quantity.measure) and is_radians(other):
        return claim(converted(quantity), converted(Quantity(other, (), RADIAN)))
    return claim(quantity.value, other)


RADIAN = Measure((("angle", 1),), Fraction(180), -1)


def is_degrees(measure: Measure) -> bool:
    """Whether it measures angles in rational parts of a turn."""
    return measure.dimension == RADIAN.dimension and measure.pi_power == 0


def is_radians(value: Value) -> bool:
    """A multiple of pi without a unit: as an angle it is in radians."""
    return isinstance(value, Expression) and "\\pi" in value.tex


def converted(quantity: Quantity) -> Value:
    """The value in base units; a formula is multiplied as text."""
    measure = quantity.measure
    assert measure is not None
    if isinstance(quantity.value, Number) and measure.pi_power == 0:
        return Number(quantity.value.value * measure.factor)
    inner = _tex(quantity.value)
    return Expression(f"{tex(Number(measure.factor))} \\cdot \\pi^{{{measure.pi_power}}} \\cdot ({inner})")


def _numbers(left: Value, right: Value) -> Claim | None:
    if isinstance(left, Number) and isinstance(right, Number):
        return numeric.same_number(left, right)
    return None


def _letters(left: Value, right: Value) -> Claim | None:
    if isinstance(left, Option) and isinstance(right, Option):
        return left.letter == right.letter
    return None


def _plain(left: Value, right: Value) -> Claim | None:
    """Words equal only themselves: no product of letters is `east`. Times may lack a half of the day or a year."""
    if isinstance(left, Clock) and isinstance(right, Clock):
        first, second = minutes(left), minutes(right)
        if first is not None and second is not None:
            return first == second
        known = first if first is not None else second
        one = left if first is None else right
        if known is not None:
            return known % 720 == (one.hour * 60 + one.minute) % 720
        return (left.hour, left.minute) == (right.hour, right.minute)
    if isinstance(left, Date) and isinstance(right, Date):
        years = {left.year, right.year} - {None}
        return (left.month, left.day) == (right.month, right.day) and len(years) < 2
    for kind in (Words, Clock, Date):
        if isinstance(left, kind) or isinstance(right, kind):
            return False
    return None


def minutes(clock: Clock) -> int | None:
    """Minutes since midnight; None where morning and afternoon are both possible."""
    if clock.half is None:
        return clock.hour * 60 + clock.minute if clock.hour > 12 or clock.hour == 0 else None
    if clock.hour > 12:
        return clock.hour * 60 + clock.minute
    return (clock.hour % 12 + 12 * (clock.half == "pm")) * 60 + clock.minute


def _listed(left: Value, right: Value) -> Claim | None:
    """Several answers are not one. A bare list equals a row that has its items in the same order."""
    if isinstance(left, Listing) and isinstance(right, Listing):
        return _same_items(left.items, right.items, claim)
    found = _either(left, right, Listing)
    if found is None:
        return None
    listing, other = found
    if isinstance(other, Row):
        if len(listing.items) != len(other.items):
            return False
        return _every([claim(a, b) for a, b in zip(listing.items, other.items, strict=True)])
    if isinstance(other, Region) and all(len(set(interval.items)) == 1 for interval in other.intervals):
        return claim(listing, Listing(tuple(interval.items[0] for interval in other.intervals)))
    return False


def _same_items(left: Sequence[Item], right: Sequence[Item], same: Callable[[Item, Item], Claim]) -> Claim:
    """Every item of either side has a partner on the other; repetitions count once, as in a set."""
    if not left or not right:
        return not left and not right
    if len(left) * len(right) > _ITEM_BUDGET:
        return False
    matches = [[same(a, b) for b in right] for a in left]
    return _every([_some(row) for row in matches] + [_some(column) for column in zip(*matches, strict=True)])


def _rows(left: Value, right: Value) -> Claim | None:
    if isinstance(left, Region) or isinstance(right, Region):
        first, second = as_region(left), as_region(right)
        if first is None or second is None:
            return None
        if first.unknown and second.unknown and first.unknown != second.unknown:
            return False
        return _same_items(first.intervals, second.intervals, _same_row)
    if isinstance(left, Row) and isinstance(right, Row):
        return _same_row(left, right)
    if isinstance(left, Matrix) and isinstance(right, Matrix):
        if [len(row) for row in left.rows] != [len(row) for row in right.rows]:
            return False
        return _every(
            [claim(a, b) for r, s in zip(left.rows, right.rows, strict=True) for a, b in zip(r, s, strict=True)]
        )
    found = _either(left, right, Matrix)
    if found is None:
        return None
    matrix, other = found
    entries = [entry for row in matrix.rows for entry in row]
    if isinstance(other, Row) and other.brackets == "()" and 1 in (len(matrix.rows), len(matrix.rows[0])):
        return claim(Row(tuple(entries), "()"), other)
    return claim(entries[0], other) if len(entries) == 1 else None


def _same_row(left: Row, right: Row) -> Claim:
    if left.brackets != right.brackets or len(left.items) != len(right.items):
        return False
    return _every([claim(a, b) for a, b in zip(left.items, right.items, strict=True)])


def _formulas(left: Value, right: Value) -> Claim | None:
    first, second = _tex(left), _tex(right)
    if first is None or second is None:
        return None
    if normalise.key(first) == normalise.key(second):
        return True
    if _is_equation(left) != _is_equation(right):
        return False
    for number, other in ((left, second), (right, first)):
        if isinstance(number, Number) and number.percent:
            return _some([pair(tex(Number(number.value * scale)), other) for scale in (1, 100)])
    return pair(first, second)


def _tex(value: Value) -> str | None:
    match value:
        case Number():
            return tex(value)
        case Expression():
            return value.tex
        case Option():
            return value.letter
        case _:
            return None
