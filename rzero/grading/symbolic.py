"""math-verify inside the killable process. Imported there and nowhere else.

Nothing in this file may print, format, hash for display, log or pickle a sympy object: turning one into text can take
for ever (Math-Verify issue 65). Its own SIGALRM timeouts are off, because they measure wall time and are ignored during
C calls; the budget of the process replaces them.
"""

from __future__ import annotations

import logging
import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any

import math_verify
from latex2sympy2_extended.latex2sympy2 import NormalizationConfig
from math_verify import LatexExtractionConfig, parser
from mpmath.libmp import to_str
from sympy import (
    Eq,
    Expr,
    Float,
    GreaterThan,
    I,
    Integer,
    LessThan,
    MatrixBase,
    Pow,
    Rational,
    StrictGreaterThan,
    StrictLessThan,
    Symbol,
    log,
)  # fmt: skip
from sympy.core.cache import clear_cache

from rzero.grading import unit_names
from rzero.grading.arithmetic import difference_is_zero

logging.disable(logging.CRITICAL)  # math-verify logs the objects it fails on

# Units are taken off before (`normalise.split_unit`): math-verify's list also eats trailing variables such as `c`.
_LATEX = NormalizationConfig(
    basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="all", equations=False
)
_BOX_ONLY = (
    LatexExtractionConfig(boxed_match_priority=0, try_extract_without_anchor=False, normalization_config=_LATEX),
)
_ANSWERS_KEPT = 256
_DIGITS = 40  # decimal digits of the numeric comparison
_KEY_DIGITS = 25  # of those, digits in a key
# Relative difference up to which two values are the same number:
_EXACT = Rational(1, 10**25)  # neither has a decimal literal
_WRITTEN = Rational(1, 10**12)  # a formula with decimal literals, which are exact but stored in binary
_ROUNDED = Rational(1, 2 * 10**6)  # a number written with a decimal literal, against one that is not rational
_POINTS, _AGREEING = 7, 3  # points tried, and points with a real value at which two formulas must agree
_SIMPLE = 10**6  # largest denominator of a rational number that is recognised by its decimals
_MAX_BITS = 200_000  # of the two parts of an exact number in a key, together


# `M_{\odot}` and `T_\star` are names; the parser knows Greek subscripts only.
_SUBSCRIPT = re.compile(r"_\s?\{?\s?\\(odot|oplus|star|ast|prime|dagger|perp|parallel|ell)\s?\}?")


_DEGREES = re.compile(r"(\d+(?:\.\d+)?)?\s?\^\s?\\circ(?![a-zA-Z])")


def warm_up() -> None:
    """Pay for regex compilation, parser tables and first-use imports before the first fork."""
    for left, right in ((r"\frac{1}{2}\sqrt{3}", r"\frac{\sqrt{3}}{2}"), ("(x+1)^2", "x^2+2x+1"), ("(1,2)", "x=3")):
        answer(["equal", left, right], lambda stage: None)
        answer(["key", left], lambda stage: None)
    answer(["unit", "kilometers"], lambda stage: None)
    _answer.cache_clear()


def answer(request: list[str], enter: Callable[[int], None]) -> tuple[Any, str | None]:
    """The answer to [rule, *texts], and the name of the exception if there was one. `enter(stage)` starts a CPU budget.

    equal     whether two formulas are the same object
    official  whether the difference of two texts vanishes, as the authors ask
    key       what a formula is compared by in votes (`key`), None if it has no values
    unit      what a name of a unit measures (`unit_names.measure`), None if it is none
    """
    rule, *texts = request
    try:
        if rule == "unit":
            enter(1)
            return unit_names.measure(texts[0]), None
        if rule == "official":
            enter(3)
            return difference_is_zero(*texts), None
        if rule == "key":
            enter(1)
            parsed = _parsed(texts[0])
            enter(3)
            return key(parsed), None
        answers = []
        for stage, text in enumerate(texts, start=1):
            enter(stage)
            answers.append(_answer(text))
        enter(3)
        return equal(*answers), None
    except Exception as error:
        # Broad on purpose: the input is untrusted text and math-verify, sympy and ANTLR raise
        # whatever they like on it. It is a verdict ("not equivalent"), it is counted, and only its type is reported.
        return None, type(error).__name__


@dataclass(frozen=True, slots=True)
class Answer:
    """The meaning of a text: the parsed object (None: math-verify reads nothing in it), its value at the first point.

    Both are computed in the stage, and at the cost, of the text they belong to; most comparisons then cost nothing.
    """

    parsed: Any
    sample: Any


@lru_cache(maxsize=_ANSWERS_KEPT)
def _answer(text: str) -> Answer:
    parsed = _parsed(text)
    return Answer(parsed, _value(parsed, 0) if _is_scalar(parsed) else None)


def _parsed(text: str) -> Any:
    """The object that math-verify reads in a text; None if it reads nothing."""
    clear_cache()  # what earlier texts left behind must not change the cost of this one
    text = _SUBSCRIPT.sub(r"_{\1}", text)
    text = _DEGREES.sub(
        lambda found: f"(\\frac{{{found[1]}\\pi}}{{180}})" if found[1] else "\\cdot\\frac{\\pi}{180}", text
    )
    parser.parse_latex_cached.cache_clear()
    parser.extract_latex.cache_clear()
    found = math_verify.parse(
        "\\boxed{" + text + "}",
        extraction_config=_BOX_ONLY,
        fallback_mode="no_fallback",
        extraction_mode="first_match",
        parsing_timeout=None,
    )
    return found[0] if found else None


def equal(left: Answer, right: Answer) -> bool:
    """Whether two answers are the same object, in either direction of math-verify's asymmetric `verify`."""
    first, second = left.parsed, right.parsed
    if first is None or second is None:
        return False
    if _is_scalar(first) and _is_scalar(second):
        verdict = same_values(left, right)
        return _verify(first, second) if verdict is None else verdict
    if isinstance(first, Eq) != isinstance(second, Eq):
        return False  # names were taken off before (`structure.split_name`); `5x - 7y + 4 = 0` is not 0
    return _verify(first, second) or _verify(second, first)


def _is_scalar(parsed: Any) -> bool:
    return isinstance(parsed, Expr) and not parsed.is_Matrix


def _verify(gold: Any, target: Any) -> bool:
    clear_cache()
    return bool(math_verify.verify(gold, target, timeout_seconds=None))


def same_values(left: Answer, right: Answer) -> bool | None:
    """Compare by value at fixed points with 40 digits; None where that decides nothing.

    Formulas in letters are compared where both are real, if there are such points: `\\sqrt{1/n}` is `\\sqrt{n}/n`.
    Faster than `simplify` and without its failure modes: math-verify's own numeric check is absolute
    (1/2004! equals 1/2006!, 1e-9 pi equals 2e-9 pi), ours is relative.
    """
    first, second = left.parsed, right.parsed
    if isinstance(first, Symbol) or isinstance(second, Symbol):
        return None  # `even` may be a word on one side and a product of letters on the other
    symbols = bool(first.free_symbols or second.free_symbols)
    tolerance = _EXACT
    if first.has(Float) or second.has(Float):
        tolerance = _WRITTEN if symbols else _ROUNDED
    if not symbols:
        return _close(left.sample, right.sample, tolerance) if left.sample is not None is not right.sample else None
    verdicts = {True: list[bool](), False: list[bool]()}  # where both are real, and elsewhere
    parts = _real_parts(first) + _real_parts(second)
    for point in range(_POINTS):
        pair = (_value(first, point), _value(second, point)) if point else (left.sample, right.sample)
        if pair[0] is not None and pair[1] is not None:
            real = _is_real(pair[0], parts, point) and _is_real(pair[1], (), point)
            verdicts[real].append(_close(*pair, tolerance))
    decisive = verdicts[True] if len(verdicts[True]) >= _AGREEING else verdicts[True] + verdicts[False]
    if not all(decisive):
        return False
    return True if len(decisive) >= _AGREEING else None


def _close(left: Any, right: Any, tolerance: Rational) -> bool:
    if left.is_Rational and right.is_Rational and tolerance == _EXACT:
        return bool(left == right)
    return bool(abs(left - right) <= tolerance * max(abs(left), abs(right)))


def key(parsed: Any) -> list[Any] | None:
    """Returns what a formula is compared by in votes: a JSON value that equal formulas share. None if it has no values.

    ["number", p, q] for a rational number in hexadecimal digits, ["values", ...] for its values at fixed points (points
    where it is not real count as such, unless it is hardly ever real), ["equation", ...] for the difference of the
    sides up to a factor, with the direction for an inequality, ["matrix", ...] for entries. Decimal literals are exact.
    """
    if isinstance(parsed, Eq):
        return _proportions("equation", parsed.lhs - parsed.rhs)
    if isinstance(parsed, StrictLessThan | LessThan | StrictGreaterThan | GreaterThan):
        strict = isinstance(parsed, StrictLessThan | StrictGreaterThan)
        return _proportions("less" if strict else "at most", parsed.lts - parsed.gts)
    if isinstance(parsed, MatrixBase):
        entries = [key(entry) for entry in parsed.flat()]
        return None if None in entries else ["matrix", *map(int, parsed.shape), *entries]
    return _of_formula(_exact(parsed)) if _is_scalar(parsed) else None


def _exact(expression: Expr) -> Expr:
    """Decimal literals as the rational numbers they were written as."""
    return expression.xreplace({number: Rational(str(number)) for number in expression.atoms(Float)})


def _of_formula(expression: Expr) -> list[Any] | None:
    if not expression.free_symbols:
        value = _value(expression, 0)
        return None if value is None else _of_number(value)
    values = [_value(expression, point) for point in range(_POINTS)]
    parts = _real_parts(expression)
    real = [value if _is_real(value, parts, point) else None for point, value in enumerate(values)]
    if len(real) - real.count(None) >= _AGREEING:
        written = ["-" if value is None else _decimal(value) for value in real]
        if len(set(written)) == 1:
            return _of_number(real[0])  # it does not depend on its letters
    else:
        written = ["-" if value is None else _complex(value) for value in values]
    return None if set(written) == {"-"} else ["values", *written]


def _of_number(value: Any) -> list[Any] | None:
    """A number's key: exact if it is rational, or has the first 25 digits of a simple fraction."""
    if value.is_Rational:
        return _rational(value.p, value.q) if value.p.bit_length() + value.q.bit_length() <= _MAX_BITS else None
    if value.is_real:
        simple = Fraction(_decimal(value)).limit_denominator(_SIMPLE)
        if _close(value, Rational(simple.numerator, simple.denominator), _EXACT):
            return _rational(simple.numerator, simple.denominator)
    return ["values", _complex(value)]


def _rational(numerator: int, denominator: int) -> list[Any]:
    return ["number", f"{numerator:x}", f"{denominator:x}"]  # hexadecimal: linear, and without Python's bound on digits


def _proportions(kind: str, difference: Expr) -> list[Any] | None:
    """Values at the points, divided by the size of the first that is not 0 (and by its sign, for an equation)."""
    difference = _exact(difference)
    values = [_value(difference, point) for point in range(_POINTS)]
    unit = next((value for value in values if value is not None and value != 0), None)
    if unit is None:
        return None
    if kind != "equation":
        unit = abs(unit)
    return [kind, *("-" if value is None else _complex((value / unit).evalf(_DIGITS)) for value in values)]


def _decimal(value: Any) -> str:
    """The first 25 digits of a real number; the last of them is 0 for all but one in 10^14 that lie on an edge."""
    return str(to_str(Float(value, _DIGITS)._mpf_, _KEY_DIGITS))


def _complex(value: Any) -> str:
    real, imaginary = value.as_real_imag()
    return _decimal(real) if imaginary == 0 else f"{_decimal(real)} {_decimal(imaginary)}"


def _value(expression: Expr, point: int) -> Any:
    """The value at a point as a complex 40-digit number, 0 where it cancels; None if it is not finite."""
    place = {symbol: _coordinate(symbol.name, point) for symbol in expression.free_symbols}
    try:
        if not place and all(atom.is_Rational for atom in expression.atoms()):
            exact = expression.doit()
            if exact.is_Rational:
                return exact
        value = expression.evalf(_DIGITS, subs=place or None)
    except (TypeError, ValueError, AttributeError, ArithmeticError, NotImplementedError):
        return None  # a function without a number for a value; `verify` may still know it
    if not isinstance(value, Expr) or not value.is_number or value.is_finite is not True:
        return None
    parts = value.as_real_imag()
    if not all(part.is_Float or part.is_Rational for part in parts):
        return None
    real, imaginary = (Integer(0) if part.is_Float and part._prec == 1 else part for part in parts)
    return real if imaginary == 0 else real + I * imaginary


def _real_parts(expression: Expr) -> list[Expr]:
    """Returns what stands under even roots and in logarithms: an expression is real where none of it is negative."""
    parts = [power.base for power in expression.atoms(Pow) if power.exp.is_Rational and power.exp.q % 2 == 0]
    parts += [logarithm.args[0] for logarithm in expression.atoms(log)]
    return [part for part in parts if part.free_symbols]


def _is_real(value: Any, parts: Sequence[Expr], point: int) -> bool:
    """Whether a value is real, and every part is real and not negative at the point."""
    if value is None or not value.is_real:
        return False
    return all((found := _value(part, point)) is not None and found.is_real and found >= 0 for part in parts)


def _coordinate(name: str, point: int) -> Rational:
    """A fixed number for each name and point: positive ones, a whole one, a larger one, a negative one, any sign."""
    number = zlib.crc32(f"{point} {name}".encode())
    if point == _WHOLE:
        return Rational(2 + number % 37)
    negative = point == _NEGATIVE or (point > _NEGATIVE and (number >> 16) % 2)
    scale = 9 if point == _LARGE else 1
    return Rational((-scale if negative else scale) * (37 + number % 71), 37 + (number >> 8) % 71)


_WHOLE, _LARGE, _NEGATIVE = 2, 3, 4  # points; those before are positive, those after have either sign
