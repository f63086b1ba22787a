"""Which answers are the same: an equivalence relation, by which votes cluster and the Solver is paid.

Each value has a key, and two answers are the same if and only if their keys are equal. The relation is therefore
reflexive, symmetric and transitive by construction, and a vote does not depend on the order of its answers. What only
algebra can tell apart gets its key from the workers, as a function of one formula: its values at fixed points
(`rzero.grading.symbolic`). A formula without such a key is the same as its own spelling.

Alone, `5` and `5 cm` are two answers. Among the answers to one question (`in_context`) what an answer leaves out is
taken from all the others, if they agree on it.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import replace

from rzero.grading import normalise
from rzero.grading.acceptance import RADIAN, converted, is_degrees, is_radians, minutes
from rzero.grading.regions import INFINITY, MINUS_INFINITY
from rzero.grading.values import (
    Assignment,
    Clock,
    Date,
    Expression,
    Listing,
    Matrix,
    Named,
    Number,
    Option,
    Quantity,
    Region,
    Row,
    Value,
    Words,
    rebuilt,
)  # fmt: skip

_INFINITE = {INFINITY.tex: "+oo", "+\\infty": "+oo", MINUS_INFINITY.tex: "-oo"}


def formulas(value: Value) -> Iterator[str]:
    """The formulas in a value whose keys have to be asked for."""
    found: list[str] = []

    def visit(inner: Value) -> Value:
        match inner:
            case Expression(tex) if tex not in _INFINITE:
                found.append(tex)
            case Quantity():
                visit(converted(inner))
            case _:
                rebuilt(inner, visit)
        return inner

    visit(value)
    yield from found


def key(value: Value, known: Mapping[str, Hashable]) -> Hashable:
    """The key of a value, units looked up. `known` holds the keys of its `formulas`, None where there is none."""

    def of(inner: Value) -> Hashable:
        return key(inner, known)

    match value:
        case Number():
            return ("number", value.value)
        case Quantity():
            assert value.measure is not None
            return ("quantity", value.measure.dimension, of(converted(value)))
        case Expression(tex):
            return _INFINITE.get(tex) or known[tex] or ("spelling", normalise.key(tex))
        case Words(text):
            return ("words", text)
        case Option(letter):
            return ("option", letter)
        case Clock():
            known_minutes = minutes(value)
            return ("clock", known_minutes) if known_minutes is not None else ("dial", value.hour, value.minute)
        case Date():
            return ("date", value.month, value.day, value.year)
        case Listing(items):
            return ("set", frozenset(of(item) for item in items))
        case Region(_, unknown) if unknown is not None:
            return ("named", unknown, of(replace(value, unknown=None)))
        case Region(intervals) if len(intervals) != 1:
            return ("union", frozenset(of(interval) for interval in intervals))
        case Region(intervals):
            return of(intervals[0])
        case Row():
            return ("row", value.brackets, tuple(of(item) for item in value.items))
        case Matrix(rows):
            return ("matrix", tuple(tuple(of(entry) for entry in row) for row in rows))
        case Named():
            return ("named", value.name, of(value.value))
        case Assignment(pairs):
            return ("named", frozenset((name, of(part)) for name, part in pairs))
        case _:
            return ("nothing",)


def in_context(values: Sequence[Value]) -> list[Value]:
    """The answers to one question, each read with what all the others agree on. A function of the set of values.

    * A name that all named answers share says nothing, and goes; beside an equation a named value is one.
    * A number without unit or percent is in the unit that all answers with a unit share. Where that is percent, it is
      a fraction of one instead if only so it meets an answer with the sign.
    * A bare list is a row where all rows have the same brackets; a time is in the half of the day all others name.
    """
    distinct = list(dict.fromkeys(values))
    if len(distinct) < 2:
        return list(values)
    completed = distinct
    for complete in (_without_shared_name, _in_shared_unit, _in_shared_percent, _in_shared_brackets, _in_shared_half):
        completed = complete(completed)
    return [dict(zip(distinct, completed, strict=True))[value] for value in values]


def _is_equation(value: Value) -> bool:
    return isinstance(value, Expression) and "=" in value.tex


def _without_shared_name(values: list[Value]) -> list[Value]:
    if any(_is_equation(value) for value in values):
        return [Expression(value.equation) if isinstance(value, Named) else value for value in values]
    named = {_name(value) for value in values} - {None}
    return [_unnamed(value) for value in values] if len(named) == 1 else values


def _name(value: Value) -> str | None:
    match value:
        case Named(name) | Region(_, name):
            return name
        case _:
            return None


def _unnamed(value: Value) -> Value:
    match value:
        case Named():
            return value.value
        case Region():
            return replace(value, unknown=None)
        case _:
            return value


def _in_shared_unit(values: list[Value]) -> list[Value]:
    measures = {value.measure for value in values if isinstance(value, Quantity)}
    measure = measures.pop() if len(measures) == 1 else None
    if measure is None or any(isinstance(value, Number) and value.percent for value in values):
        return values
    completed: list[Value] = []
    for value in values:
        if isinstance(value, Number) or (isinstance(value, Expression) and not _is_equation(value)):
            value = Quantity(value, (), RADIAN if is_degrees(measure) and is_radians(value) else measure)
        completed.append(value)
    return completed


def _in_shared_percent(values: list[Value]) -> list[Value]:
    signed = {value.value for value in values if isinstance(value, Number) and value.percent}
    if not signed or any(isinstance(value, Quantity) for value in values):
        return values
    completed: list[Value] = []
    for value in values:
        if isinstance(value, Number) and not value.percent:
            hundredth = value.value / 100
            value = Number(value.value if value.value in signed and hundredth not in signed else hundredth)
        completed.append(value)
    return completed


def _in_shared_brackets(values: list[Value]) -> list[Value]:
    brackets = {value.brackets for value in values if isinstance(value, Row)}
    if len(brackets) != 1:
        return values
    pair = brackets.pop()
    return [
        Row(value.items, pair) if isinstance(value, Listing) and value.items and not value.braces else value
        for value in values
    ]


def _in_shared_half(values: list[Value]) -> list[Value]:
    halves = {value.half for value in values if isinstance(value, Clock) and value.half}
    if len(halves) != 1:
        return values
    half = halves.pop()
    return [
        replace(value, half=half) if isinstance(value, Clock) and minutes(value) is None else value for value in values
    ]
