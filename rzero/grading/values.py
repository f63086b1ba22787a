"""Meanings of answers: the typed values that `rzero.grading.reading` makes of text.

Everything is frozen, compares by content and holds texts, exact rationals and other values, no object of an algebra
system. A `Unit` names units; what they measure is looked up later (`rzero.grading.units`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction

Units = tuple[tuple[str, int], ...]  # names with powers, as written: (("km", 1), ("h", -1))


@dataclass(frozen=True, slots=True)
class Nothing:
    """An empty answer; equals nothing, not even itself."""


@dataclass(frozen=True, slots=True)
class Number:
    """An exact value, percent signs and scale words resolved.

    `decimals` is the number of digits after the point where it was written as a plain decimal.
    """

    value: Fraction
    decimals: int | None = None
    percent: bool = False


@dataclass(frozen=True, slots=True)
class Measure:
    """The measure of a unit: powers of base units, and the size of one unit in them, `factor * pi**pi_power`."""

    dimension: Units
    factor: Fraction
    pi_power: int = 0


@dataclass(frozen=True, slots=True)
class Quantity:
    """A value in a unit. `measure` is None until the names are looked up; the value is a number or formula then."""

    value: Value
    units: Units
    measure: Measure | None = None


@dataclass(frozen=True, slots=True)
class Mixed:
    """A quantity in several units (`5 feet 3 inches`) until they have been looked up."""

    parts: tuple[Quantity, ...]


@dataclass(frozen=True, slots=True)
class Expression:
    """A formula, equation or anything else that only algebra can compare, as LaTeX."""

    tex: str


@dataclass(frozen=True, slots=True)
class Words:
    """A word or phrase in lower case."""

    text: str


@dataclass(frozen=True, slots=True)
class Option:
    """The letter of an option, with or without the text it labels."""

    letter: str


@dataclass(frozen=True, slots=True)
class Clock:
    """A time of day; `half` is "am" or "pm" where it was given."""

    hour: int
    minute: int
    half: str | None


@dataclass(frozen=True, slots=True)
class Date:
    """A day of the year; `year` is None where it was not given."""

    month: int
    day: int
    year: int | None


@dataclass(frozen=True, slots=True)
class Listing:
    """Several answers without an order: a bare list, alternatives, or a set. None at all is the empty set."""

    items: tuple[Value, ...]
    braces: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """Items with an order: tuple, vector, or an interval between two ends. `brackets` are its two brackets."""

    items: tuple[Value, ...]
    brackets: str


@dataclass(frozen=True, slots=True)
class Matrix:
    """Rows of entries."""

    rows: tuple[tuple[Value, ...], ...]


@dataclass(frozen=True, slots=True)
class Region:
    """A set of real numbers as intervals (rows of two ends). `unknown` is the one an inequality was written in."""

    intervals: tuple[Row, ...]
    unknown: str | None = None


@dataclass(frozen=True, slots=True)
class Named:
    """`name = value`; `equation` is all of it as LaTeX."""

    name: str
    value: Value
    equation: str


@dataclass(frozen=True, slots=True)
class Assignment:
    """Values of several unknowns, in the order written."""

    pairs: tuple[tuple[str, Value], ...]


Value = (
    Nothing | Number | Quantity | Mixed | Expression | Words | Option | Clock | Date | Listing | Row | Matrix | Region
    | Named | Assignment
)  # fmt: skip


def rebuilt(value: Value, change: Callable[[Value], Value]) -> Value:
    """`value` with `change` applied to the values inside it; a value without any comes back as it is."""
    match value:
        case Listing() | Row():
            return replace(value, items=tuple(change(item) for item in value.items))
        case Region():
            intervals = tuple(replace(r, items=tuple(change(end) for end in r.items)) for r in value.intervals)
            return replace(value, intervals=intervals)
        case Matrix():
            return Matrix(tuple(tuple(change(entry) for entry in row) for row in value.rows))
        case Quantity() | Named():
            return replace(value, value=change(value.value))
        case Assignment():
            return Assignment(tuple((name, change(part)) for name, part in value.pairs))
        case _:
            return value


def tex(number: Number) -> str:
    """The number as LaTeX for the algebra system, with the decimals it was written with."""
    value = number.value
    if value.denominator == 1:
        return str(value.numerator)
    if number.decimals:
        digits = str(abs(value.numerator) * 10**number.decimals // value.denominator).rjust(number.decimals + 1, "0")
        return f"{'-' if value < 0 else ''}{digits[: -number.decimals]}.{digits[-number.decimals :]}"
    return f"{'-' if value < 0 else ''}\\frac{{{abs(value.numerator)}}}{{{value.denominator}}}"
