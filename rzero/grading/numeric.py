r"""Numbers compared as exact rationals: the path most answers take, and the only one for integers.

Rules, each with its evidence in the adjudicated pairs:

* Integers, fractions, mixed numbers and decimals are equal only if they are the same rational number. No tolerance:
  1e-4 relative, as published harnesses use, makes 2.88e16 equal its neighbours.
* A decimal written with six digits or more after the point, six of them significant, equals a fraction that rounds to
  it (1/3 and 0.333333): nobody who writes that many digits means the terminating number.
* A percent sign may be a unit that was left out (`25\%` and 25, where the question asked for percent: adjudicated) or
  part of the number (`60\%` and 0.6: upstream case); both are accepted. 25 and 0.25 stay different.
* `1,234` is 1234 when the groups are three digits without spaces; `1,23` reads as 1.23 only against 1.23.
"""

from __future__ import annotations

import re
from fractions import Fraction

from rzero.grading.values import Number

_MAX_DIGITS = 400  # of a literal; Python's own quadratic int() stays well below a millisecond
_MAX_EXPONENT = 400  # of a power of ten
_ROUNDED_DIGITS = 6

_INTEGER = r"(?:\d{1,3}(?:,\d{3})+|\d+)"
_DECIMAL = rf"(?:{_INTEGER}(?:\.\d*)?|\.\d+)"
_POWER = r"(?:\*|\\times|\\cdot)?10\^(?:\{(?P<braced>[-+]?\d{1,6})\}|(?P<bare>-?\d))"
_NUMBER = re.compile(rf"(?P<sign>[-+]{{0,2}})(?P<mantissa>{_DECIMAL})(?:(?:[eE](?P<e>[-+]?\d{{1,6}}))|(?:{_POWER}))?")
_TEN = re.compile(r"(?P<sign>[-+]?)10\^(?:\{(?P<braced>[-+]?\d{1,6})\}|(?P<bare>\d))")
_FRACTION = re.compile(
    rf"(?P<sign>[-+]?)(?P<whole>\d+)?(?:\\frac\{{(?P<top>-?{_DECIMAL})\}}\{{(?P<bottom>-?{_DECIMAL})\}})"
)
_SLASH = re.compile(rf"(?P<sign>[-+]?)(?P<top>{_DECIMAL})/(?P<bottom>{_DECIMAL})")
_MIXED = re.compile(r"(?P<sign>[-+]?)(?P<whole>\d+) (?P<top>\d+)/(?P<bottom>\d+)")


def parse_number(text: str) -> Number | None:
    """The number that cleaned `text` spells; None for anything else and for literals over the digit bounds."""
    if text.endswith("%"):
        text = text[:-1].rstrip()
        bare = None if text.endswith("%") else parse_number(text)
        return Number(bare.value / 100, percent=True) if bare else None
    if not text or len(text) > 2 * _MAX_DIGITS or not (text[-1] in "}." or text[-1].isdigit()) or not text.isascii():
        return None
    if match := _MIXED.fullmatch(text):
        return _ratio(match, match["whole"])
    if _LIST_SPACE.search(_THOUSANDS_SPACE.sub("", text)):
        return None
    text = text.replace(" ", "")
    if match := _NUMBER.fullmatch(text):
        return _literal(match)
    if match := _TEN.fullmatch(text):
        return _scaled(Fraction(-1 if match["sign"] == "-" else 1), match["braced"] or match["bare"])
    if match := _REPEATING.fullmatch(text):
        return _repeating(match)
    text = _BRIEF_FRACTION.sub(r"\\frac{\1\2}{\3\4}", text)
    if match := _FRACTION.fullmatch(text) or _SLASH.fullmatch(text):
        return _ratio(match, match.groupdict().get("whole"))
    return None


_REPEATING = re.compile(
    r"(?P<sign>-?)(?P<whole>\d{0,40})\.(?P<start>\d{0,40})\\(?:overline|bar|dot)\{?(?P<again>\d{1,40})\}?"
)


def _repeating(match: re.Match[str]) -> Number:
    """`0.1\\overline{6}` is 1/6."""
    start, again = match["start"], match["again"]
    fraction = Fraction(int(start + again) - int(start or 0), 10 ** len(start) * (10 ** len(again) - 1))
    value = int(match["whole"] or 0) + fraction
    return Number(-value if match["sign"] else value)


_THOUSANDS_SPACE = re.compile(r"(?<=\d) (?=\d{3}(?:\D|$))")
_LIST_SPACE = re.compile(r", |\d \d")  # `32, 349` and `3 4` are two numbers
_BRIEF_FRACTION = re.compile(r"\\frac(?:(\d)|\{([^{}]*)\})(?:(\d)(?!\d)|\{([^{}]*)\})")


def same_number(left: Number, right: Number) -> bool:
    """Exact equality, or agreement with a decimal of six digits or more (see the head of this file)."""
    if left.value == right.value:
        return True
    if left.percent != right.percent:  # the sign was left out on one side
        return 100 * left.value == right.value if left.percent else left.value == 100 * right.value
    return _rounds_to(left.value, right) or _rounds_to(right.value, left)


def decimal_comma(text: str) -> str | None:
    """`1,22` as `1.22`, the way half of the world writes it; None if `text` is not of that form."""
    match = re.fullmatch(r"([-+]?\d+),(\d+)", text)
    return f"{match[1]}.{match[2]}" if match else None


def _rounds_to(value: Fraction, literal: Number) -> bool:
    if literal.decimals is None or literal.decimals < _ROUNDED_DIGITS:
        return False
    unit = Fraction(1, 10**literal.decimals)
    significant = abs(literal.value) >= unit * 10 ** (_ROUNDED_DIGITS - 1)
    return significant and abs(value - literal.value) <= unit / 2


def _literal(match: re.Match[str]) -> Number | None:
    mantissa = match["mantissa"].replace(",", "")
    exponent = match["e"] or match["braced"] or match["bare"]
    if len(mantissa) > _MAX_DIGITS:
        return None
    value = Fraction(mantissa + "0" if mantissa.endswith(".") else mantissa)
    if match["sign"].count("-") % 2:
        value = -value
    if exponent is not None:
        return _scaled(value, exponent)
    return Number(value=value, decimals=len(mantissa.partition(".")[2]) if "." in mantissa else None)


def _scaled(value: Fraction, exponent: str) -> Number | None:
    if abs(int(exponent)) > _MAX_EXPONENT:
        return None
    return Number(value=value * Fraction(10) ** int(exponent))


def _ratio(match: re.Match[str], whole: str | None) -> Number | None:
    top, bottom = (match[name].replace(",", "") for name in ("top", "bottom"))
    if max(len(top), len(bottom), len(whole or "")) > _MAX_DIGITS or not Fraction(bottom):
        return None
    if whole and (top.startswith("-") or bottom.startswith("-")):
        return None  # 3\frac{-1}{2} is a product
    value = int(whole or 0) + Fraction(top) / Fraction(bottom)
    return Number(value=-value if match["sign"] == "-" else value)
