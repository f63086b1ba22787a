r"""One spelling for one answer: the string side of equality.

`clean` takes away what carries no meaning (dollars, Markdown, \left, spacing commands) and leaves LaTeX that can still
be parsed. `key` squeezes that further into a string that is only compared, never parsed. Both are linear and bounded by
the caller's cap on length.
"""

from __future__ import annotations

import re

from rzero.grading import characters, notation

_MARKDOWN = re.compile(r"(\*\*\*|\*\*|__|\*|_|```|`)(?=\S)(.+?)(?<=\S)\1", re.DOTALL)
_BOLD = re.compile(r"(?<![\w)\]}*])\*\*(?=\S)([^*]+)(?<=\S)\*\*(?![\w(*])")

_REWRITES = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\\\(?=[a-zA-Z])", r"\\"),  # commands whose backslash was escaped twice
        (r",\s?\\!\s?|\{,\}", ","),  # thousands separators
        (r"(?<!\\)\\[,;:!> ]|\\(?:quad|qquad|displaystyle|textstyle|limits|nolimits|hfill)(?![a-zA-Z])|~", " "),
        (r"\\(?:left|right|[bB]igg?[lrm]?)(?![a-zA-Z])(?:\.)?", ""),
        (r"\\(?:[dtc]frac|[sn]i?c?e?frac)(?![a-zA-Z])", r"\\frac"),
        (r"\\math(?:rm|bf|it|sf)\s?\{\s?([ei])\s?\}", r"\1"),
        (
            r"\\(?:mathrm|mathbf|mathit|mathsf|textbf|textit|textrm|textsf|textnormal|mbox|operatorname|boldsymbol|bm|pmb"
            r"|emph|unit|si)\s?(?=\{)",
            r"\\text",
        ),
        (r"\\(?:mathrm|mathbf)\s?([a-zA-Z])(?![a-zA-Z])", r"\\text{\1}"),
        (r"\{\\(?:rm|bf|it|sf|tt)\s([^{}]*)\}", r"\\text{\1}"),
        (r"\\(?:math)?(?:rm|bf|it)\s([a-zA-Z]+)", r"\\text{\1}"),
        (r"\\(?:math)?(?:rm|bf|it)\s", ""),
        (r"\\text\s(?=\{)", r"\\text"),
        (r"\\\(|\\\)|\\\[|\\\]|(?<!\\)\$", ""),
        (
            r"\^\s?\{\s?\\circ\s?\}|\^\s?\\circ(?![a-zA-Z])|\\degree(?![a-zA-Z])|\^\{?\s?\\text\{\s?o\s?\}\}?",
            r"^\\circ",
        ),
        (
            r"\\%|\\text\{\s?\\?%\s?\}|\\text\{\s?per\s?cent(?:age)?(?: points)?\s?\}"
            r"|\s?\b(?<!\\)per\s?cent(?:age)?(?: points)?\b",
            "%",
        ),
        (r"\\(?:le|leqslant|leq)(?![a-zA-Z])|<=|=<", r"\\leq "),
        (r"\\(?:ge|geqslant|geq)(?![a-zA-Z])|>=", r"\\geq "),
        (r"\\lt(?![a-zA-Z])", "<"),
        (r"\\gt(?![a-zA-Z])", ">"),
        (r"\\ne(?![a-zA-Z])|!=", r"\\neq "),
        (r"\\(?:mid|vert|lvert|rvert)(?![a-zA-Z])", "|"),
        (r"\\lbrace(?![a-zA-Z])", r"\\{"),
        (r"\\rbrace(?![a-zA-Z])", r"\\}"),
        (r"\\varnothing(?![a-zA-Z])", r"\\emptyset"),
        (r"\\text\{\s*\}", ""),
        (r"\s+", " "),
        (r"^ ?(?:\\(?:approx|sim|simeq|implies|Rightarrow|therefore)(?![a-zA-Z])|=) ?", ""),
    )
]
_MATRIX = re.compile(r"\\begin\{(?:[pbvBV]?matrix|array|cases|aligned)\}")
_WHOLE_TEXT = re.compile(r"\\text\{([^{}]*)\}")
_PLAIN = re.compile(r"[-+]?[0-9]+(?:\.[0-9]+)?|[a-zA-Z]")  # what most answers are: nothing to clean
_TRAILING = " .,;:\\"


def clean(text: str) -> str:
    """Parseable LaTeX without delimiters, Markdown, spacing commands, font commands and trailing punctuation."""
    text = text.strip()
    if _PLAIN.fullmatch(text):
        return text
    text = characters.as_latex(text)
    while found := _MARKDOWN.fullmatch(text):
        text = found[2]
    text = _BOLD.sub(r"\1", text)
    is_matrix = _MATRIX.search(text) is not None
    for position, (pattern, replacement) in enumerate(_REWRITES):
        if not (is_matrix and position == 0):  # `\\` separates the rows of a matrix
            text = pattern.sub(replacement, text)
    text = text.strip().removesuffix("**").rstrip(_TRAILING).strip()
    return strip_group(notation.as_latex(text).strip())


def strip_group(text: str) -> str:
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
