"""math-verify inside the killable process. Imported there and nowhere else.

Nothing in this file may print, format, hash for display, log or pickle a sympy object: turning one into text can take
for ever (Math-Verify issue 65). Its own SIGALRM timeouts are off, because they measure wall time and are ignored during
C calls; the budget of the process replaces them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import math_verify
from latex2sympy2_extended.latex2sympy2 import NormalizationConfig
from math_verify import LatexExtractionConfig, parser
from sympy import Expr, Float, Rational, Symbol
from sympy.core.cache import clear_cache

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
_EQUAL = Rational(1, 10**25)  # relative difference up to which two 40-digit values are the same number
_POINTS = (Rational(17, 13), Rational(-23, 19), Rational(41, 29), Rational(-7, 31), Rational(53, 17))


def warm_up() -> None:
    """Pay for regex compilation, parser tables and first-use imports before the first fork."""
    for left, right in ((r"\frac{1}{2}\sqrt{3}", r"\frac{\sqrt{3}}{2}"), ("(x+1)^2", "x^2+2x+1"), ("(1,2)", "x=3")):
        answer({"left": left, "right": right}, lambda stage: None)
    _parsed.cache_clear()


def answer(request: dict[str, Any], enter: Callable[[int], None]) -> tuple[bool, str | None]:
    """Verdict on one request, and the name of the exception if there was one. `enter(stage)` starts a CPU budget."""
    try:
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
        if verdict is not None:
            return verdict
        return _verify(left, right)
    return _verify(left, right) or _verify(right, left)


def _verify(gold: Any, target: Any) -> bool:
    return bool(math_verify.verify(gold, target, timeout_seconds=None))


def same_values(left: Expr, right: Expr) -> bool | None:
    """Compare by value at fixed points with 40 digits; None where that decides nothing.

    Faster than `simplify` and without its failure modes: math-verify's own numeric check is absolute
    (1/2004! equals 1/2006!). A decimal literal is only as exact as it is written, so expressions with one go to
    math-verify's rule (six decimals).
    """
    if left.has(Float) or right.has(Float) or isinstance(left, Symbol) or isinstance(right, Symbol):
        return None
    names = sorted({symbol.name for symbol in left.free_symbols})
    if names != sorted({symbol.name for symbol in right.free_symbols}):
        return None
    agreed = 0
    for shift in range(len(_POINTS) if names else 1):
        values = {name: _POINTS[(shift + index) % len(_POINTS)] + index for index, name in enumerate(names)}
        first, second = _value(left, values), _value(right, values)
        if first is None or second is None:
            continue
        if abs(first - second) > _EQUAL * max(abs(first), abs(second)):
            return False
        agreed += 1
    return True if agreed >= (3 if names else 1) else None


def _value(expression: Expr, values: dict[str, Rational]) -> Any:
    """The value at a point as a complex 40-digit number; None if it is not finite or cancelled to nothing."""
    point = {symbol: values[symbol.name] for symbol in expression.free_symbols}
    value = expression.subs(point).evalf(_DIGITS)
    if not isinstance(value, Expr) or not value.is_number or value.is_finite is not True:
        return None
    parts = value.as_real_imag()
    if not all(part.is_Float or part.is_Rational for part in parts):
        return None
    return None if all(part.is_Float and part._prec == 1 for part in parts) else value
