r"""Equality of short answers as BIG-Bench Extra Hard defines it, without the defects of the published comparison.

The rules of google-deepmind/bbeh (evaluate.py): case, a leading "the answer is", a full stop, `$...$`, `\text{}`, bold
and the space behind commas do not matter; `(a)` is `a`, `[x]` is `x`, numbers compare as numbers, apostrophes and a
question mark are ignored. Mended here (docs/authors_code.md, D18): thousands commas, fractions, every LaTeX wrapper,
and a box of several lines is read whole.
"""

from __future__ import annotations

import math
import re

_LEADS = ("the answer is:", "the final answer is:", "the final answer is", "the answer is")
_WRAPPERS = re.compile(r"\\(?:text(?:bf|it|rm|tt)?|math(?:rm|bf|it|tt)|boxed|mbox|operatorname)\s?\{([^{}]*)\}")
_FRACTION = re.compile(r"\\[dt]?frac\{([^{}]*)\}\{([^{}]*)\}")
_THOUSANDS = re.compile(r"-?\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_MAX_NESTING = 6


def same_phrase(prediction: str, reference: str) -> bool:
    """Whether a predicted short answer is the reference. The empty prediction equals the empty reference only."""
    left, right = plain_phrase(prediction), plain_phrase(reference)
    if left == right or _bracketed(left, right) or _bracketed(right, left):
        return True
    first, second = _number(left), _number(right)
    if first is not None and first == second:
        return True
    if left.replace("'", "") == right.replace("'", ""):
        return True
    return left.endswith("?") and left[:-1] == right


def plain_phrase(text: str) -> str:
    """Lower case, on one line, without the wrapping that carries no meaning."""
    text = text.strip()
    lowered = text.lower()
    for lead in _LEADS:
        found = lowered.rfind(lead)
        if found >= 0 and len(lowered) == len(text):
            text = text[found + len(lead) :].strip()
            lowered = text.lower()
    text = text.removesuffix(".")
    if len(text) > 1 and text.startswith("$") and text.endswith("$"):
        text = text[1:-1]
    for _ in range(_MAX_NESTING):
        text, changed = _WRAPPERS.subn(r"\1", text)
        if not changed:
            break
    text = _FRACTION.sub(r"\1/\2", text)
    return " ".join(text.lower().replace("**", "").split()).replace(", ", ",").removesuffix(".").strip()


def _bracketed(outer: str, inner: str) -> bool:
    """`(a)` against `a` (one character, as published) and `[x]` against `x`."""
    return bool(inner) and (outer == f"[{inner}]" or (len(outer) == 3 and outer == f"({inner})"))


def _number(text: str) -> float | None:
    """The number a text spells, as Python reads it, with thousands commas taken out; None for anything else."""
    if _THOUSANDS.fullmatch(text):
        text = text.replace(",", "")
    try:
        value = float(text)
    except ValueError:
        return None
    return None if math.isnan(value) else value
