r"""Answers that are made of answers: lists, tuples, sets, intervals, alternatives, equations with a name in front.

Taken apart here rather than by math-verify, because there order is lost: a bare `1,2` is a set to it and so, inside
other things, is a tuple. The rule is the usual one of mathematics: what stands in round or square brackets has an
order, what stands bare or in braces has none.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_OPEN, _CLOSE = "([{", ")]}"
_AND = re.compile(
    r"\s?\\text\{\s?,?\s?(?:and|or)\s?\}\s?|(?<![a-zA-Z\\])\s?,?\s?(?:and|or)(?=[\s\d(\\-])\s?(?![a-zA-Z]{2})"
)
_MEMBER = re.compile(r"^[a-zA-Z](?:_\{?\w\}?)?\s?\\in(?![a-zA-Z])\s?")
_NAME = re.compile(r"[a-zA-Z]|\\[a-zA-Z]+")
_UNKNOWN = re.compile(r"[a-zA-Z](?:_\{?\w+\}?)?")
_COEFFICIENT = re.compile(r"^[\d.]")
_PLUS_MINUS = re.compile(r"\\pm(?![a-zA-Z])")
_MAX_ITEMS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """`brackets` is "" for a bare list, "{}" for a set, else the two brackets of a tuple or interval."""

    items: tuple[str, ...]
    brackets: str

    @property
    def ordered(self) -> bool:
        return self.brackets not in ("", "{}")


def split_collection(cleaned: str) -> Parts | None:
    """The parts of a list, tuple, set or interval; None for a single answer."""
    text = _AND.sub(",", cleaned)
    bare = split_top(text, ",;")
    if bare is None:
        return None
    if len(bare) > 1:
        return Parts(items=tuple(_plus_minus(bare)), brackets="")
    inner, brackets = _unwrap(text)
    if brackets:
        parts = split_top(inner, ",;")
        if parts is not None and (len(parts) > 1 or brackets == "{}") and all(parts):
            return Parts(items=tuple(_plus_minus(parts) if brackets == "{}" else parts), brackets=brackets)
    expanded = _plus_minus([text])
    return Parts(items=tuple(expanded), brackets="") if len(expanded) > 1 else None


def split_top(text: str, separators: str) -> list[str] | None:
    """Split at separators outside all brackets. None if brackets do not balance, a part is empty, or there are many."""
    parts, depth, start = [], 0, 0
    for index, character in enumerate(text):
        if character in _OPEN:
            depth += 1
        elif character in _CLOSE:
            depth -= 1
            if depth < 0:
                return None
        elif depth == 0 and character in separators:
            parts.append(text[start:index].strip())
            start = index + 1
    parts.append(text[start:].strip())
    if depth or len(parts) > _MAX_ITEMS:
        return None
    if len(parts) > 1 and not parts[-1]:
        parts.pop()
    return parts if all(parts) else None


def _unwrap(text: str) -> tuple[str, str]:
    r"""(content, brackets) if one pair of brackets spans the text. `\{ \}` and `{ }` are both "{}"."""
    text = text.strip()
    if text.startswith("\\{") and text.endswith("\\}"):
        return text[2:-2].strip(), "{}"
    if len(text) < 2 or text[0] not in "([{" or text[-1] not in ")]}":
        return text, ""
    depth = 0
    for index, character in enumerate(text):
        depth += (character in _OPEN) - (character in _CLOSE)
        if depth == 0 and index < len(text) - 1:
            return text, ""
    return text[1:-1].strip(), text[0] + text[-1]


def _plus_minus(items: list[str]) -> list[str]:
    r"""Write `a \pm b` as the two values it stands for; two signs in one item would be linked: it stays."""
    written = []
    for item in items:
        if len(_PLUS_MINUS.findall(item)) == 1:
            written += [_PLUS_MINUS.sub("+", item), _PLUS_MINUS.sub("-", item)]
        else:
            written.append(item)
    return [item.removeprefix("+").strip() for item in written]


def split_name(cleaned: str) -> tuple[str, str] | None:
    r"""(name, value) of `x = 5`, `f(x) = x^2`, `BC^2 = 19`, `2 = x`; None where the sides have to be solved.

    A name has a letter, no sum at top level and no leading number: `2x + z = 1` and `7 = 11a + c` are equations. The
    value of a chain is its last side. `x \in S` names its set.
    """
    if member := _MEMBER.match(cleaned):
        return member[0].split("\\in")[0].strip(), cleaned[member.end() :].strip()
    if any(sign in cleaned for sign in ("\\neq", "\\leq", "\\geq", "<", ">")):
        return None
    sides = split_top(cleaned.replace("\\approx", "\0"), "=")
    if sides is None or len(sides) < 2 or (len(sides) > 2 and len(split_top(cleaned, ",;") or []) > 1):
        return None  # the last: `a = 1, b = 2` is a list
    name, value = sides[0].strip(), sides[-1].split("\0")[0].strip()
    if len(sides) == 2 and _UNKNOWN.fullmatch(value) and not _NAME.search(name):
        name, value = value, name
    if value and len(sides) > 2 and not _NAME.search(name):
        return "", value  # what a computation arrives at
    if not value or not _NAME.search(name) or _COEFFICIENT.match(name):
        return None
    if len(split_top(name, "+-") or ["", ""]) > 1:
        return None
    return name, value
