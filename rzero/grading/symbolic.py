"""math-verify inside the killable process. Imported there and nowhere else.

Nothing in this file may print, format, hash for display, log or pickle a sympy object: turning one into text can take
for ever (Math-Verify issue 65). Its own SIGALRM timeouts are off, because they measure wall time and are ignored during
C calls; the budget of the process replaces them.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
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
_PARSED_KEPT = 64
_DIGITS = 40  # decimal digits of the numeric comparison
# Relative difference up to which two values are the same number:
_EXACT = Rational(1, 10**25)  # neither has a decimal literal
_WRITTEN = Rational(1, 10**12)  # a formula with decimal literals, which are exact but stored in binary
_ROUNDED = Rational(1, 2 * 10**6)  # a number written with a decimal literal, against one that is not rational
_POINTS = (Rational(17, 13), Rational(-23, 19), Rational(41, 29), Rational(-7, 31), Rational(53, 17))


# `M_{\odot}` and `T_\star` are names; the parser knows Greek subscripts only.
_SUBSCRIPT = re.compile(r"_\s?\{?\s?\\(odot|oplus|star|ast|prime|dagger|perp|parallel|ell)\s?\}?")


def warm_up() -> None:
    """Pay for regex compilation, parser tables and first-use imports before the first fork."""
    for left, right in ((r"\frac{1}{2}\sqrt{3}", r"\frac{\sqrt{3}}{2}"), ("(x+1)^2", "x^2+2x+1"), ("(1,2)", "x=3")):
        answer({"rule": "math", "left": left, "right": right}, lambda stage: None)
    _parsed.cache_clear()


def answer(request: dict[str, Any], enter: Callable[[int], None]) -> tuple[bool, str | None]:
    """Verdict on one request, and the name of the exception if there was one. `enter(stage)` starts a CPU budget."""
    try:
        if request["rule"] == "official":
            enter(3)
            return difference_is_zero(request["left"], request["right"]), None
        enter(1)
        left = _parsed(request["left"])
        enter(2)
        right = _parsed(request["right"])
        enter(3)
        clear_cache()  # what earlier comparisons left behind must not change the cost of this one
        return equal(left, right), None
    except Exception as error:
        # The one broad except of the project: the input is untrusted text and math-verify, sympy and ANTLR raise
        # whatever they like on it. It is a verdict ("not equivalent"), it is counted, and only its type is reported.
        return False, type(error).__name__


@lru_cache(maxsize=_PARSED_KEPT)
def _parsed(text: str) -> Any:
    """The mathematical object `text` denotes, or None if math-verify reads none in it."""
    clear_cache()
    text = _SUBSCRIPT.sub(r"_{\1}", text)
    parser.parse_latex_cached.cache_clear()
    parser.extract_latex.cache_clear()
    found = math_verify.parse(
        "\\boxed{" + text + "}",
        extraction_config=_BOX_ONLY,
        fallback_mode="no_fallback",
        extraction_mode="first_match",
        parsing_timeout=None,  # type: ignore[arg-type]
    )
    return found[0] if found else None


def equal(left: Any, right: Any) -> bool:
    """Whether two parsed answers are the same object, in either direction of math-verify's asymmetric `verify`."""
    if left is None or right is None:
        return False
    if isinstance(left, Expr) and isinstance(right, Expr):
        verdict = same_values(left, right)
        return _verify(left, right) if verdict is None else verdict
    if isinstance(left, Eq) != isinstance(right, Eq):
        return False  # names were taken off before (`structure.split_name`); `5x - 7y + 4 = 0` is not 0
    return _verify(left, right) or _verify(right, left)


def _verify(gold: Any, target: Any) -> bool:
    return bool(math_verify.verify(gold, target, timeout_seconds=None))


def same_values(left: Expr, right: Expr) -> bool | None:
    """Compare by value at fixed points with 40 digits; None where that decides nothing.

    Faster than `simplify` and without its failure modes: math-verify's own numeric check is absolute
    (1/2004! equals 1/2006!, 1e-9 pi equals 2e-9 pi), ours is relative.
    """
    if isinstance(left, Symbol) or isinstance(right, Symbol):
        return None  # `even` may be a word on one side and a product of letters on the other
    names = sorted({symbol.name for symbol in left.free_symbols | right.free_symbols})
    tolerance = _EXACT
    if left.has(Float) or right.has(Float):
        tolerance = _WRITTEN if names else _ROUNDED
    agreed = 0
    for shift in range(len(_POINTS) if names else 1):
        values = {name: _POINTS[(shift + index) % len(_POINTS)] + index for index, name in enumerate(names)}
        first, second = _value(left, values), _value(right, values)
        if first is None or second is None:
            continue
        if abs(first - second) > tolerance * max(abs(first), abs(second)):
            return False
        agreed += 1
    return True if agreed >= (3 if names else 1) else None


def _value(expression: Expr, values: dict[str, Rational]) -> Any:
    """The value at a point as a complex 40-digit number; None if it is not finite or cancelled to nothing."""
    point = {symbol: values[symbol.name] for symbol in expression.free_symbols}
    value = (expression.subs(point) if point else expression).evalf(_DIGITS)
    if not isinstance(value, Expr) or not value.is_number or value.is_finite is not True:
        return None
    parts = value.as_real_imag()
    if not all(part.is_Float or part.is_Rational for part in parts):
        return None
    return None if all(part.is_Float and part._prec == 1 for part in parts) else value
