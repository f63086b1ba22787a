r"""The authors' notion of equality (mathruler 0.1.0, which is PRM800K's), restated without `eval` and with bounds.

Two normalised spellings are compared, then the difference of the two texts is simplified. What is restated is what the
recorded votes and rewards depend on, defects included (docs/authors_code.md, R15): `AB` is `BA`, `x` is `X`, `2/4` is
not `1/2`, `2^{10}` is not 1024, `10%` is 10. Differences that remain: LaTeX commands beyond the table below are
dropped rather than written in unicode, and a comparison on which the authors' code hangs is "not equal" here.
"""

from __future__ import annotations

import re
import unicodedata

from rzero.grading.acceptance import Claim, Every, pair

_UNITS = (
    "degree", "cm", "centimeter", "meter", "mile", "second", "minute", "hour", "day", "week", "month", "year", "foot",
    "feet", "inch", "yard",
)  # fmt: skip
_UNIT_PATTERNS = [re.compile(rf"{unit}(?:es)?s? *(?:\^[0-9]+)?") for unit in _UNITS]
_WORDS_AS_NUMBERS = (("million", "*10^6"), ("billion", "*10^9"), ("trillion", "*10^12"))
_TEXT = re.compile(r"^\\text\{(.+?)\}$")
_COMMA = re.compile(r"(\d),(\d\d\d)(?=$|\D)")
_REDUCED = re.compile(r"^-?[0-9]+.?/0*[1-9][0-9]*.?$")
_TOWERS = re.compile(r"\^[0-9]+\^|\^[0-9][0-9]+")
_BRACKETS = "()[]"
_MAX_FREE_LETTERS = 2


def official_claim(given: str, truth: str) -> Claim:
    """Returns what makes `given` right for the authors' grader where `truth` is the reference. Not symmetric.

    Its pairs are about texts whose difference has to vanish (`rzero.grading.arithmetic`).
    """
    if _spelling(truth) == _spelling(given):
        return True
    expected, answer = _expression(truth), _expression(given)
    if expected == answer:
        return True
    if not answer:
        return False
    expected_items, items = _elements(expected), _elements(answer)
    if len(expected_items) > 1 and (expected[0] != answer[0] or expected[-1] != answer[-1]):
        return False
    if not items or len(expected_items) != len(items):
        return False
    claims = tuple(_same_item(first, second) for first, second in zip(expected_items, items, strict=True))
    return False if False in claims else Every(tuple(claim for claim in claims if claim is not True))


def _same_item(expected: str, answer: str) -> Claim:
    """Fractions must be spelt alike, integers may only equal integers, everything else may be simplified."""
    if _REDUCED.match(expected) and _REDUCED.match(answer):
        return expected == answer
    if _is_integer(expected) != _is_integer(answer):
        return False
    joined = f"({expected})-({answer})"
    letters = {letter for letter in joined.replace("sqrt", "").replace("frac", "") if letter.isalpha()}
    if len(letters) > _MAX_FREE_LETTERS or "^{" in joined or "^(" in joined or _TOWERS.search(joined):
        return False
    return pair(unicodedata.normalize("NFKC", expected), unicodedata.normalize("NFKC", answer))


def _spelling(text: str) -> str:
    """The first normalisation: LaTeX variants of one spelling."""
    text = text.strip()
    if whole := _TEXT.search(text):
        text = whole[1].strip()
    try:
        return _latex_spelling(text)
    except (IndexError, ValueError):
        return text


def _latex_spelling(text: str) -> str:
    text = text.replace("\n", "").replace("\\!", "").replace("\\\\", "\\")
    text = text.replace("tfrac", "frac").replace("dfrac", "frac").replace("\\left", "").replace("\\right", "")
    text = text.replace("^{\\circ}", "").replace("^\\circ", "").replace("\\$", "")
    if "\\text{ " in text:
        text, _ = text.split("\\text{ ")  # a unit; two of them are an error, and the text stays as it was
    text = text.replace("\\%", "").replace("%", "").replace(" .", " 0.").replace("{.", "{0.")
    if not text:
        return text
    if text[0] == ".":
        text = "0" + text
    sides = text.split("=")
    if len(sides) == 2 and len(sides[0]) <= 2:
        text = sides[1]
    text = _brace_fractions(_brace_roots(text).replace(" ", ""))
    if text == "0.5":
        return "\\frac{1}{2}"
    return _slash_as_fraction(text)


def _brace_roots(text: str) -> str:
    """`\\sqrt3` as `\\sqrt{3}`. Raises IndexError on a root of nothing."""
    first, *rest = text.split("\\sqrt")
    return first + "".join("\\sqrt" + (part if part[0] == "{" else "{" + part[0] + "}" + part[1:]) for part in rest)


def _brace_fractions(text: str) -> str:
    """`\\frac12` as `\\frac{1}{2}` and `\\frac1{2}` likewise; a fraction of one character leaves the text alone."""
    first, *rest = text.split("\\frac")
    written = [first]
    for part in rest:
        if part[0] == "{":
            written.append("\\frac" + part)
        elif len(part) < 2:
            return text
        elif part[1] == "{":
            written.append("\\frac{" + part[0] + "}" + part[1:])
        else:
            written.append("\\frac{" + part[0] + "}{" + part[1] + "}" + part[2:])
    return "".join(written)


def _slash_as_fraction(text: str) -> str:
    match = re.fullmatch(r"(0|-?[1-9]\d*)/(0|-?[1-9]\d*)", text)
    return f"\\frac{{{match[1]}}}{{{match[2]}}}" if match else text


def _expression(text: str) -> str:
    """The second normalisation: something a calculator could read."""
    if whole := _TEXT.search(text):
        text = whole[1]
    text = text.replace("\\%", "%").replace("\\$", "$").replace("$", "").replace("%", "")
    text = text.replace(" or ", " , ").replace(" and ", " , ")
    for word, number in _WORDS_AS_NUMBERS:
        text = text.replace(word, number)
    for pattern in _UNIT_PATTERNS:
        text = pattern.sub("", text)
    text = re.sub(r"\^ *\\circ", "", text)
    if text and text[0] == "{" and text[-1] == "}":
        text = text[1:-1]
    text = re.sub(r",\\! *", "", text)
    text = _whole_number(text)
    if "\\" in text:
        text = latex_as_text(text)
    text = re.sub("- *", "-", text)
    text = re.sub("([0-9]) +([0-9])", r"\1+\2", text)
    text = text.replace(" ", "").replace("{", "").replace("}", "").lower()
    return _whole_number(_without_commas(text)) if _is_integer(text) else text


def _whole_number(text: str) -> str:
    """`5.0` as `5`, for anything `float` reads; texts too long for that stay."""
    try:
        value = float(text)
        if abs(value - round(value)) <= 1e-7:
            return str(round(value))
    except (ValueError, OverflowError):
        pass
    return text


def _is_integer(text: str) -> bool:
    try:
        value = float(_without_commas(text))
        return abs(value - round(value)) <= 1e-7
    except (ValueError, OverflowError):
        return False


def _without_commas(text: str) -> str:
    """Thousands commas away; each pass frees the next group, and a number has few of them."""
    for _ in range(16):
        shorter = _COMMA.sub(r"\1\2", text)
        if shorter == text:
            break
        text = shorter
    return text


def _elements(text: str) -> list[str]:
    """The elements of a bracketed list without inner brackets; anything else is one element; nothing is none."""
    text = _without_commas(text)
    if not text:
        return []
    inner = text[1:-1]
    if len(text) > 2 and text[0] in _BRACKETS and text[-1] in _BRACKETS and not any(c in inner for c in _BRACKETS):
        return [element.strip() for element in inner.split(",")]
    return [text]


_SYMBOLS = {
    "pi": "pi", "infty": "inf", "cup": "U", "cdot": "*", "times": "*", "pm": "\u00b1", "leq": "\u2264",
    "le": "\u2264", "geq": "\u2265", "ge": "\u2265", "neq": "\u2260", "ne": "\u2260", "in": "\u2208",
    "emptyset": "\u2205", "varnothing": "\u2205", "theta": "\u03b8", "alpha": "\u03b1", "beta": "\u03b2",
    "gamma": "\u03b3", "lambda": "\u03bb", "omega": "\u03c9", "circ": "\u2218", "quad": " ", "qquad": " ",
    "ldots": "\u2026", "dots": "\u2026", "cap": "\u2229", "div": "\u00f7", "to": "\u2192", "log": "log", "ln": "ln",
    "sin": "sin", "cos": "cos", "tan": "tan", "sec": "sec", "cot": "cot", "exp": "exp", "max": "max", "min": "min",
}  # fmt: skip
_COMMAND = re.compile(r"\\([a-zA-Z]+)\s?|\\(.)", re.DOTALL)
_MAX_COMMANDS = 400


def latex_as_text(text: str) -> str:
    """LaTeX as the authors' converter writes it: `\\frac{a}{b}` is `a/b` (brackets lost), `\\sqrt{a}` is `sqrt(a)`."""
    text = text.replace("\\tfrac", "\\frac").replace("\\dfrac", "\\frac").replace("\\frac", " \\frac")
    return _Converter(text).run().strip()


class _Converter:
    """One pass over the text with an explicit position; nesting is bounded by `_MAX_COMMANDS`."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._commands = 0

    def run(self) -> str:
        return self._until_closed(top=True, depth=0)

    def _until_closed(self, *, top: bool, depth: int) -> str:
        written: list[str] = []
        while self._at < len(self._text):
            character = self._text[self._at]
            if character == "\\":
                written.append(self._command(depth))
            elif character == "{" and depth < 40:
                self._at += 1
                written.append(self._until_closed(top=False, depth=depth + 1))
            elif character == "}":
                self._at += 1
                if not top:
                    break
            else:
                written.append(" " if character == "~" else character)
                self._at += 1
        return "".join(written)

    def _command(self, depth: int) -> str:
        match = _COMMAND.match(self._text, self._at)
        self._commands += 1
        if match is None or self._commands > _MAX_COMMANDS:
            self._at = len(self._text)
            return ""
        self._at = match.end()
        name = match[1]
        if name is None:
            return {",": " ", ";": " ", ":": " ", " ": " ", "\\": ";"}.get(
                match[2], match[2] if match[2] in "{}%&#_$" else ""
            )
        if name in ("frac", "cfrac"):
            return f"{self._argument(depth)}/{self._argument(depth)}"
        if name == "sqrt":
            return f"sqrt({self._argument(depth)})"
        if name in ("begin", "end"):
            kind = self._argument(depth)
            return ("[" if name == "begin" else "]") if "matrix" in kind or "array" in kind else ""
        return _SYMBOLS.get(name, "")

    def _argument(self, depth: int) -> str:
        """The next group, command or single character."""
        while self._at < len(self._text) and self._text[self._at] == " ":
            self._at += 1
        if self._at >= len(self._text):
            return ""
        if self._text[self._at] == "{" and depth < 40:
            self._at += 1
            return self._until_closed(top=False, depth=depth + 1)
        if self._text[self._at] == "\\":
            return self._command(depth + 1) if depth < 40 else ""
        self._at += 1
        return self._text[self._at - 1]
