r"""Plain notation and older TeX as the LaTeX the algebra system reads: `2*pi*r`, `sqrt(3)`, `x**2`, `{1 \over 2}`."""

from __future__ import annotations

import re

_FUNCTIONS = "arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|log|ln|exp"
_LETTERS = (
    "alpha|beta|gamma|delta|epsilon|theta|lambda|sigma|omega|phi|psi|rho|tau"  # spelt out by people without LaTeX
)
_BARE = r"(?<![a-zA-Z\\])"
_REWRITES = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\*\*", "^"),
        (rf"{_BARE}(pi|{_LETTERS})(?![a-zA-Z])", r"\\\1 "),
        (rf"{_BARE}(?:oo|inf|infty|infinity)(?![a-zA-Z])", r"\\infty "),
        (rf"{_BARE}({_FUNCTIONS})(?=\s?[\^(]|\s[\d\\a-z])", r"\\\1"),
        (rf"{_BARE}sqrt\s?(?=[\d(])", r"\\sqrt "),
        (rf"{_BARE}cbrt\s?(?=[\d(])", r"\\sqrt[3] "),
        (r"\+\s?/\s?-", r"\\pm "),
        (r"\^(-?\d{2,})(?![\d.])", r"^{\1}"),
        (r"\^(-\d)", r"^{\1}"),
        (r"(?<=[a-zA-Z}])_(\w)(?!\w)", r"_{\1}"),
        (r"\s?\*\s?", r" \\cdot "),
        (r"\\sqrt\s?(\[[^\[\]]{1,8}\])?\s?(\d|[a-zA-Z])", r"\\sqrt\1{\2}"),
        (r"\\frac\s?(\d)\s?(\d)", r"\\frac{\1}{\2}"),
        (r"\\frac\s?(\d)\s?(?=\{)", r"\\frac{\1}"),
        (r"\\(binom|frac)\s?(\{[^{}]*\})\s?(\d|[a-zA-Z](?![a-zA-Z]))", r"\\\1\2{\3}"),
        (r"\\(?:tbinom|dbinom)(?![a-zA-Z])", r"\\binom"),
        (r"(\^(?:\{[^{}]*\}|\w))(_(?:\{[^{}]*\}|\w))", r"\2\1"),
    )
]
_INFIX = (("\\over", "\\frac"), ("\\choose", "\\binom"))
_MAX_REWRITTEN = 16  # roots, powers and fractions in one answer


def as_latex(text: str) -> str:
    """`text` with plain functions, powers and products, and with `\\over` and `\\choose`, written in LaTeX."""
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    for opener, kept in (("\\sqrt", "\\sqrt"), ("\\sqrt[3]", "\\sqrt[3]"), ("^", "^")):
        text = _braced(text, opener, kept)
    for infix, command in _INFIX:
        text = _prefixed(text, infix, command)
    return text


def _braced(text: str, opener: str, kept: str) -> str:
    r"""`\sqrt(3)` as `\sqrt{3}` and `x^(n+1)` as `x^{n+1}`."""
    start = 0
    for _ in range(_MAX_REWRITTEN):
        found = re.compile(re.escape(opener) + r"\s?\(").search(text, start)
        if found is None:
            break
        end = closing(text, found.end() - 1)
        if end is None:
            break
        text = f"{text[: found.start()]}{kept}{{{text[found.end() : end]}}}{text[end + 1 :]}"
        start = found.start() + len(kept)
    return text


def _prefixed(text: str, infix: str, command: str) -> str:
    r"""`{a \over b}` as `\frac{a}{b}`; without braces the whole text is the fraction."""
    for _ in range(_MAX_REWRITTEN):
        found = re.search(re.escape(infix) + r"(?![a-zA-Z])", text)
        if found is None:
            break
        start = _opening(text, found.start())
        end = len(text) if start < 0 else closing(text, start)
        if end is None:
            break
        above, below = text[start + 1 : found.start()].strip(), text[found.end() : end].strip()
        text = f"{text[: max(start, 0)]}{command}{{{above}}}{{{below}}}{text[end + 1 :]}"
    return text


def closing(text: str, start: int) -> int | None:
    """Index of the bracket that closes the one at `start`, whatever kind either is; None if there is none."""
    depth = 0
    for index in range(start, len(text)):
        depth += (text[index] in "([{") - (text[index] in ")]}")
        if depth == 0:
            return index
    return None


def _opening(text: str, end: int) -> int:
    """Index of the brace that is open at `end`; -1 if there is none."""
    depth = 0
    for index in range(end - 1, -1, -1):
        depth += (text[index] == "}") - (text[index] == "{")
        if depth < 0:
            return index
    return -1
