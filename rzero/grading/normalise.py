r"""One spelling for one answer: the string side of equality.

`clean` takes away what carries no meaning (dollars, \left, spacing commands, degree signs, unicode variants) and leaves
LaTeX that can still be parsed. `key` squeezes that further into a string that is only compared, never parsed. Both are
linear and bounded by the caller's cap on length.
"""

from __future__ import annotations

import re

_CHARACTERS = str.maketrans(
    {
        "\u2212": "-", "\u2013": "-", "\u2012": "-", "\u2010": "-", "\ufe63": "-", "\uff0d": "-",
        "\u00d7": "\\times ", "\u00b7": "\\cdot ", "\u22c5": "\\cdot ", "\u00f7": "/", "\u2044": "/", "\u2215": "/",
        "\u03c0": "\\pi ", "\u221e": "\\infty ", "\u221a": "\\sqrt ", "\u00b1": "\\pm ", "\u222a": "\\cup ",
        "\u2229": "\\cap ", "\u2208": "\\in ", "\u2264": "\\le ", "\u2265": "\\ge ", "\u2260": "\\neq ",
        "\u00b0": "^\\circ ", "\u03b8": "\\theta ", "\u03b1": "\\alpha ", "\u03b2": "\\beta ", "\u03bb": "\\lambda ",
        "\u03c9": "\\omega ", "\u00b2": "^{2}", "\u00b3": "^{3}", "\uff0c": ",", "\uff08": "(", "\uff09": ")",
        "\uff1a": ":", "\uff05": "%", "\u3002": ".", "\u00a0": " ", "\u2009": " ", "\u202f": " ", "\u2002": " ",
        "\u2003": " ", "\u3000": " ", "\t": " ", "\n": " ", "\r": " ", "\x0c": " ", "\x0b": " ", "~": " ",
        "\u200b": "", "\u200c": "", "\u200d": "", "\u2060": "", "\ufeff": "",
        "\u00bd": "\\frac{1}{2}", "\u00bc": "\\frac{1}{4}", "\u00be": "\\frac{3}{4}",
    }
)  # fmt: skip

_REWRITES = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\\\(?=[a-zA-Z])", r"\\"),  # commands whose backslash was escaped twice
        (r",\s?\\!\s?|\{,\}", ","),  # thousands separators
        (r"(?<!\\)\\[,;:!> ]|\\(?:quad|qquad|displaystyle|textstyle|limits|nolimits|hfill)(?![a-zA-Z])", " "),
        (r"\\(?:left|right|[bB]igg?[lrm]?)(?![a-zA-Z])(?:\.)?", ""),
        (r"\\[dtc]frac(?![a-zA-Z])", r"\\frac"),
        (r"\\(?:mathrm|mathbf|mathit|mathsf|textbf|textit|textrm|textnormal|mbox|operatorname)\s?(?=\{)", r"\\text"),
        (r"\\(?:math)?rm\s", ""),
        (r"\\text\s(?=\{)", r"\\text"),
        (r"\\\(|\\\)|\\\[|\\\]|\\\$|\$|(?<!\\)[*]{2}(?=$)", ""),
        (r"\^\s?\{\s?\\circ\s?\}|\^\s?\\circ(?![a-zA-Z])|\\degree(?![a-zA-Z])|\\text\{\s?degrees?\s?\}", ""),
        (r"\\%|\\text\{\s?\\?%\s?\}|\\text\{\s?percent\s?\}|\s?\bpercent(?:age)?\b", "%"),
        (r"\\(?:le|leqslant|leq)(?![a-zA-Z])|<=", r"\\leq "),
        (r"\\(?:ge|geqslant|geq)(?![a-zA-Z])|>=", r"\\geq "),
        (r"\\ne(?![a-zA-Z])|!=", r"\\neq "),
        (r"\\(?:mid|vert|lvert|rvert)(?![a-zA-Z])", "|"),
        (r"\\text\{\s*\}", ""),
        (r"\s+", " "),
    )
]
_MATRIX = re.compile(r"\\begin\{(?:[pbvBV]?matrix|array|cases|aligned)\}")
_WHOLE_TEXT = re.compile(r"\\text\{([^{}]*)\}")
_PLAIN = re.compile(r"[-+]?\d+(?:\.\d+)?|[a-zA-Z]")  # what most answers are: nothing to clean
_TRAILING = " .,;:\\"


def clean(text: str) -> str:
    """Parseable LaTeX without delimiters, spacing commands, font commands, degree signs and trailing punctuation."""
    text = text.strip()
    if _PLAIN.fullmatch(text):
        return text
    text = text.translate(_CHARACTERS)
    is_matrix = _MATRIX.search(text) is not None
    for position, (pattern, replacement) in enumerate(_REWRITES):
        if not (is_matrix and position == 0):  # `\\` separates the rows of a matrix
            text = pattern.sub(replacement, text)
    return _strip_group(text.strip().rstrip(_TRAILING).strip())


def _strip_group(text: str) -> str:
    """Take off braces that wrap the whole text: `{5}` is 5, `{1}{2}` stays."""
    while len(text) > 1 and text[0] == "{" and text[-1] == "}":
        depth = 0
        for index, character in enumerate(text):
            depth += (character == "{") - (character == "}")
            if depth == 0 and index < len(text) - 1:
                return text
        text = text[1:-1].strip()
    return text


_KEY_REWRITES = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\text\{([^{}]*)\}", r"\1"),
        (r"\\frac\s?(\d)\s?(\d)(?!\d)", r"\\frac{\1}{\2}"),
        (r"\\frac\s?(\d)\s?\{", r"\\frac{\1}{"),
        (r"\\frac\s?\{([^{}]*)\}\s?(\d)", r"\\frac{\1}{\2}"),
        (r"\\sqrt\s?(\d)", r"\\sqrt{\1}"),
        (r"([_^])\{(\w)\}", r"\1\2"),
        (r"\\(?:cdot|times)(?![a-zA-Z])", "*"),
        (r"(?<!\d)\s|\s(?!\d)", ""),  # `3 4` is not 34
    )
]


def key(cleaned: str) -> str:
    """A string that is equal for answers that differ in spelling only. Words compare without regard to case."""
    text = cleaned
    for pattern, replacement in _KEY_REWRITES:
        text = pattern.sub(replacement, text)
    if len(text) == 3 and text[0] == "(" and text[2] == ")" and text[1].isalpha():
        text = text[1]  # an option letter: (C) is C
    return text.casefold() if is_word(text) else text


def is_word(text: str) -> bool:
    """A plain word or phrase (`east`, `no solution`), as opposed to a product of variables."""
    return len(text) > 2 and "\\" not in text and all(part.isalpha() for part in text.replace("'", "").split("-"))


def is_prose(cleaned: str) -> bool:
    r"""Words rather than mathematics: `\text{...}` around everything, or a bare word of four letters or more."""
    whole = _WHOLE_TEXT.fullmatch(cleaned)
    text = (whole[1] if whole else cleaned).strip()
    letters = text.replace(" ", "").replace("'", "").replace("-", "")
    return letters.isalpha() and len(letters) > (1 if whole else 3)


# Canonical unit -> its spellings. Only units that are spelt without a following digit or backslash.
_UNITS = {
    "mm": "mm millimeter millimeters", "cm": "cm centimeter centimeters centimetre centimetres",
    "m": "m meter meters metre metres", "km": "km kilometer kilometers kilometre kilometres",
    "in": "in inch inches", "ft": "ft foot feet", "yd": "yd yard yards", "mi": "mi mile miles",
    "mg": "mg milligram milligrams", "g": "g gram grams", "kg": "kg kilogram kilograms",
    "lb": "lb lbs pound pounds", "s": "s sec secs second seconds", "min": "min mins minute minutes",
    "h": "h hr hrs hour hours", "day": "day days", "week": "week weeks", "month": "month months",
    "year": "year years yr yrs", "mL": "ml milliliter milliliters", "L": "l liter liters litre litres",
    "am": "am a.m a.m.", "pm": "pm p.m p.m.", "mph": "mph", "km/h": "km/h kmh kph", "m/s": "m/s",
    "dollar": "dollar dollars usd", "cent": "cent cents", "degree": "degree degrees deg",
    "unit": "unit units", "squareunit": "squareunit squareunits sq.units", "cubicunit": "cubicunit cubicunits",
}  # fmt: skip
_CANONICAL = {spelling: unit for unit, spellings in _UNITS.items() for spelling in spellings.split()}
# After a bare number these would be variables (5m, 3s, 2h), so they only count as units inside \text{}.
_AMBIGUOUS = {"m", "s", "g", "h", "l", "in"}
_TEXT_UNIT = re.compile(
    r"^(?P<value>.*[\d)}\]])\s*(?P<unit>\\text\{\s*(?P<name>[^{}]*)\}(?:\s?/\s?\\text\{[^{}]*\}|\s?\^\s?\{?-?\d\}?)*)$"
)
_PLAIN_UNIT = re.compile(
    r"^(?P<value>[-+]?[\d.,:]*\d(?:/\d+)?)\s?(?P<unit>[a-zA-Z][a-zA-Z./]*(?: [a-zA-Z]+)?)(?:\^\{?[23]\}?)?$"
)
_ORDINAL = re.compile(r"^(\d+)\s?\^?\s?\{?\s?(?:\\text\{)?(?:st|nd|rd|th)\}?\s?\}?(?:\s?\\text\{[^{}]*\})?$")
_JOINERS = {"and", "or", "if", "for", "when", "where", "with"}


def split_unit(cleaned: str) -> tuple[str, str | None]:
    r"""(value, canonical unit) of `12 \text{ cm}`, `5am`, `12 hours`, `3^{\text{rd}}`; None if there is no unit.

    A `\text{}` after a value is taken for a unit whatever it says (unknown ones come back in lower case), unless it
    joins two answers. Bare words are units only if they are in the list above.
    """
    if ordinal := _ORDINAL.match(cleaned):
        return ordinal[1], None
    if (found := _TEXT_UNIT.match(cleaned)) and found["name"].split(" ")[0] not in _JOINERS:
        spelling = re.sub(r"\\text|[{}\s]", "", found["unit"])
        if not _balanced(found["value"]):
            return cleaned, None
        return found["value"].strip(), _canonical(spelling)
    if found := _PLAIN_UNIT.match(cleaned):
        spelling = found["unit"].replace(" ", "")
        if spelling.casefold() in _CANONICAL and spelling not in _AMBIGUOUS:
            return found["value"], _canonical(spelling + cleaned[found.end("unit") :])
    return cleaned, None


def known_unit(unit: str) -> bool:
    return unit in _UNITS


def _canonical(spelling: str) -> str:
    return _CANONICAL.get(spelling.casefold(), spelling.casefold())


def _balanced(text: str) -> bool:
    return text.count("{") == text.count("}")
