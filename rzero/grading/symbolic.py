"""math-verify inside the killable process. Imported there and nowhere else.

Nothing in this file may print, format, hash for display, log or pickle a sympy object: turning one into text can take
for ever (Math-Verify issue 65). Its own SIGALRM timeouts are off, because they measure wall time and are ignored during
C calls; the budget of the process replaces them.
"""

from __future__ import annotations

import logging
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import math_verify
from latex2sympy2_extended.latex2sympy2 import NormalizationConfig
from math_verify import LatexExtractionConfig, parser
from sympy import Eq, Expr, Float, Rational, Symbol
from sympy.core.cache import clear_cache

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
# Relative difference up to which two values are the same number:
_EXACT = Rational(1, 10**25)  # neither has a decimal literal
_WRITTEN = Rational(1, 10**12)  # a formula with decimal literals, which are exact but stored in binary
_ROUNDED = Rational(1, 2 * 10**6)  # a number written with a decimal literal, against one that is not rational
_POINTS, _AGREEING = 5, 3  # points tried, and points with a value at which two formulas must agree


# `M_{\odot}` and `T_\star` are names; the parser knows Greek subscripts only.
_SUBSCRIPT = re.compile(r"_\s?\{?\s?\\(odot|oplus|star|ast|prime|dagger|perp|parallel|ell)\s?\}?")


def warm_up() -> None:
    """Pay for regex compilation, parser tables and first-use imports before the first fork."""
    for left, right in ((r"\frac{1}{2}\sqrt{3}", r"\frac{\sqrt{3}}{2}"), ("(x+1)^2", "x^2+2x+1"), ("(1,2)", "x=3")):
        answer({"rule": "math", "left": left, "right": right}, lambda stage: None)
    _answer.cache_clear()


def answer(request: dict[str, Any], enter: Callable[[int], None]) -> tuple[bool, str | None]:
    """Verdict on one request, and the name of the exception if there was one. `enter(stage)` starts a CPU budget."""
    try:
        if request["rule"] == "official":
            enter(3)
            return difference_is_zero(request["left"], request["right"]), None
        enter(1)
        left = _answer(request["left"])
        enter(2)
        right = _answer(request["right"])
        enter(3)
        return equal(left, right), None
    except Exception as error:
        # Broad on purpose: the input is untrusted text and math-verify, sympy and ANTLR raise
        # whatever they like on it. It is a verdict ("not equivalent"), it is counted, and only its type is reported.
        return False, type(error).__name__


@dataclass(frozen=True, slots=True)
class Answer:
    """What a text denotes: the parsed object (None: math-verify reads nothing in it) and its value at the first point.

    Both are computed in the stage, and at the cost, of the text they belong to; most comparisons then cost nothing.
    """

    parsed: Any
    sample: Any


@lru_cache(maxsize=_ANSWERS_KEPT)
def _answer(text: str) -> Answer:
    clear_cache()  # what earlier texts left behind must not change the cost of this one
    text = _SUBSCRIPT.sub(r"_{\1}", text)
    parser.parse_latex_cached.cache_clear()
    parser.extract_latex.cache_clear()
    found = math_verify.parse(
        "\\boxed{" + text + "}",
        extraction_config=_BOX_ONLY,
        fallback_mode="no_fallback",
        extraction_mode="first_match",
        parsing_timeout=None,
    )
    parsed = found[0] if found else None
    return Answer(parsed, _value(parsed, 0) if _is_scalar(parsed) else None)


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
    agreed = 0
    for point in range(_POINTS if symbols else 1):
        pair = (_value(first, point), _value(second, point)) if point else (left.sample, right.sample)
        if pair[0] is None or pair[1] is None:
            continue
        if abs(pair[0] - pair[1]) > tolerance * max(abs(pair[0]), abs(pair[1])):
            return False
        agreed += 1
    return True if agreed >= (_AGREEING if symbols else 1) else None


def _value(expression: Expr, point: int) -> Any:
    """The value at a point as a complex 40-digit number; None if it is not finite or cancelled to nothing."""
    place = {symbol: _coordinate(symbol.name, point) for symbol in expression.free_symbols}
    try:
        value = (expression.subs(place) if place else expression).evalf(_DIGITS)
    except (TypeError, ValueError, AttributeError, ArithmeticError, NotImplementedError):
        return None  # a function without a number for a value; `verify` may still know it
    if not isinstance(value, Expr) or not value.is_number or value.is_finite is not True:
        return None
    parts = value.as_real_imag()
    if not all(part.is_Float or part.is_Rational for part in parts):
        return None
    return None if all(part.is_Float and part._prec == 1 for part in parts) else value


def _coordinate(name: str, point: int) -> Rational:
    """A fixed rational of either sign for each name and point, between 1/3 and 3 in size."""
    number = zlib.crc32(f"{point} {name}".encode())
    sign = -1 if (number >> 16) % 3 == 0 else 1
    return Rational(sign * (37 + number % 71), 37 + (number >> 8) % 71)
