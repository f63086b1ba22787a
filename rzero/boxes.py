r"""The one reader of boxes: rewards, votes, formats and evaluation all ask `last_boxed`.

The contract of both roles is one `\boxed{final answer}`, and the last one counts, because a model that corrects itself
boxes again. The authors have two readers of their own, which are rules here so that their numbers can be reproduced.

Time is linear in the length of the text: each rule is `str.find` and one pass over braces. A pattern over model text is
quadratic sooner or later (the authors' `findall` takes 25 s for 20,000 openers).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Rule = Literal["whole", "mathruler", "generation"]

BOX = "\\boxed{"


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    r"""A closed box: `text[start:end]` is all of it, from the backslash on; `content` is stripped, perhaps empty."""

    start: int
    end: int
    content: str


def last_boxed(text: str, *, rule: Rule = "whole") -> str | None:
    r"""Content of the last box, stripped; None if there is none.

    whole       ours, see `find_last`; an empty box is no answer.
    mathruler   the authors' reward and vote (mathruler 0.1.0): the last `\boxed{`, closed by counting every brace, also
                escaped ones. An inner box wins over the one around it; an empty box is the empty string.
    generation  the authors' question_generate.py: boxes from left to right, nested ones inside their parent, and an
                unclosed last one loses its last character.
    """
    if rule == "whole":
        box = find_last(text)
        return None if box is None else box.content or None
    if rule == "mathruler":
        opening = text.rfind(BOX)
        return None if opening < 0 else _counted(text, opening + len(BOX))
    boxes = _left_to_right(text)
    return boxes[-1].strip() if boxes else None


def find_last(text: str) -> Box | None:
    r"""The last box of `text`: `\boxed{...}` or `\fbox{...}`, with white space before the brace or without.

    * Braces are matched; `\{` and `\}` do not count. Of boxes inside boxes the outer one counts.
    * A box that never closes is no box, and the one before it is not taken in its place: a response that was cut off
      inside its final box has no answer yet. The same holds for an empty box.
    * The name alone is a mention, not a box ("as \boxed asks"), and so is an empty box within a sentence ("in the
      \boxed{} above"): what was boxed before still counts. A number needs no braces: `\boxed 5`.
    """
    if not any(name in text for name in _NAMES):
        return None
    openings = _openings(text)
    for last in reversed(openings):
        opening = _outermost(last, openings)
        if opening.body is None or _is_mention(text, opening):
            continue
        if opening.end is None:
            return None
        inside = slice(opening.body, opening.end - 1 if opening.braced else opening.end)
        return Box(start=opening.start, end=opening.end, content=_content(text[inside]))
    return None


def closing_brace(text: str, start: int) -> int | None:
    """Index of the brace that closes `text[start] == "{"`, or None. Escaped braces do not count."""
    depth = 0
    for match in _BRACE.finditer(text, start):
        if match[0] == "{":
            depth += 1
        elif match[0] == "}":
            depth -= 1
            if depth == 0:
                return match.start()
    return None


# A backslash takes the next character with it, so that `\}` and `\\}` are read as TeX reads them.
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)

_NAMES = ("\\boxed", "\\fbox")
# More white space before the argument is not LaTeX anybody writes. Models also write `\\boxed{5}`, as in JSON.
_TOKEN = re.compile(
    r"(?P<name>\\(?:boxed|fbox))(?![A-Za-z])(?:\s{0,8}(?P<brace>\{)|\s{0,8}(?P<number>[-+]?\d[\d.,]*))?"
    r"|\\\\(?!boxed|fbox)|\\[{}]|(?P<open>\{)|(?P<close>\})"
)
_DOTS = frozenset({"...", "…", "\\ldots", "\\dots", "\\cdots"})  # what stands in for an argument
_GOES_ON = re.compile(r"[ \t$*`'\"]*[a-z\u3040-\u30ff\u4e00-\u9fff]")
_LEADS_IN = re.compile(r"\b(?:in|into|within|inside|using|use|with|the|an?)[ \t$*`'\"(]*$", re.IGNORECASE)
_LEAD = 24  # characters before an empty box that say what it is there for


@dataclass(slots=True, kw_only=True)
class _Opening:
    """An opener with its argument `[body, end)`, braces included in `end`; `parent` is the box it stands in."""

    start: int
    body: int | None = None  # None: no argument
    end: int | None = None  # None: never closed
    braced: bool = False
    parent: int | None = None


def _openings(text: str) -> list[_Opening]:
    """All openers from left to right, by one pass over the braces."""
    openings: list[_Opening] = []
    unclosed: list[int | None] = []  # the opener of each open brace; None: an ordinary brace
    boxes: list[int] = []  # those of them that are openers
    for token in _TOKEN.finditer(text):
        if token["name"]:
            opening = _Opening(start=token.start(), parent=boxes[-1] if boxes else None)
            if token["brace"]:
                opening.body, opening.braced = token.end(), True
                unclosed.append(len(openings))
                boxes.append(len(openings))
            elif token["number"]:
                opening.body = token.start("number")
                opening.end = opening.body + len(token["number"].rstrip(".,"))
            openings.append(opening)
        elif token["open"]:
            unclosed.append(None)
        elif token["close"] and unclosed and (closed := unclosed.pop()) is not None:
            openings[closed].end = token.end()
            boxes.pop()
    return openings


def _outermost(opening: _Opening, openings: list[_Opening]) -> _Opening:
    while opening.parent is not None and openings[opening.parent].end is not None:
        opening = openings[opening.parent]
    return opening


def _is_mention(text: str, opening: _Opening) -> bool:
    """True for an empty box that a sentence talks about rather than fills."""
    if not opening.braced or opening.end is None or _content(text[opening.body : opening.end - 1]):
        return False
    before = text[max(0, opening.start - _LEAD) : opening.start]
    return bool(_GOES_ON.match(text, opening.end) or _LEADS_IN.search(before))


def _content(text: str) -> str:
    text = text.strip()
    return "" if text in _DOTS else text


def _counted(text: str, inside: int) -> str | None:
    closing = _matching(text, inside)
    return None if closing is None else text[inside:closing].strip()


def _matching(text: str, inside: int) -> int | None:
    """Index of the brace that closes a box whose content starts at `inside`; every brace counts."""
    depth = 1
    for match in _ANY_BRACE.finditer(text, inside):
        depth += 1 if match[0] == "{" else -1
        if depth == 0:
            return match.start()
    return None


_ANY_BRACE = re.compile(r"[{}]")


def _left_to_right(text: str) -> list[str]:
    boxes, position = [], 0
    while (opening := text.find(BOX, position)) >= 0:
        inside = opening + len(BOX)
        closing = _matching(text, inside)
        if closing is None:
            # the authors' scan stops at the end of the text and still takes one character off
            boxes.append(text[inside : max(inside, len(text) - 1)])
            break
        boxes.append(text[inside:closing])
        position = closing + 1
    return boxes
