r"""Answers stated in prose, for the evaluation of models that never learned to box theirs. Never used in training.

`prose_answer` takes, in this order: the last box, a response that is nothing but the answer, the last explicit
statement ("#### 5", "The answer is 5", "Final answer: 5", "A: 5"), the last formula of the closing sentence, the last
number of the text. Linear: each pattern is anchored on a literal that is found with `rfind`.
"""

from __future__ import annotations

import re

from rzero.boxes import find_last
from rzero.turns import own_turn

_WINDOW = 1200  # characters at the end of a response that are searched for formulas and numbers
_STATED = 400  # characters after an announcement that may hold the answer
_ANNOUNCEMENTS = ("answer is", "answer:", "answer**", "answers are", "answer would be", "answer to the question is")
_LINE_ANNOUNCEMENT = re.compile(r"^\s*(?:A|Answer|Final answer)\s?:\s*(\S.*)$", re.IGNORECASE)
_FORMULA = re.compile(
    r"\$\$([^$]{1,300})\$\$|\$([^$\n]{1,300})\$|\\\(([^\n]{1,300}?)\\\)|\\\[(.{1,300}?)\\\]", re.DOTALL
)
_NUMBER = re.compile(
    r"(?<![\w.])(?:\d{1,4}(?::\d{1,4}){1,2}(?:\s?[ap]\.?m\b\.?)?"  # a clock time or a ratio
    r"|[-+]?\$?\d[\d,]{0,30}(?:\.\d{1,30})?(?:/\d{1,12})?%?)",
    re.IGNORECASE,
)
_BARE = 80  # characters of a response that is nothing but an answer
_WORD = re.compile(r"(?<![\\A-Za-z])[^\W\d_]{3,}")
_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")
_MAX_BOXES = 8
_JOINT = re.compile(r"\\text\s?\{\s?(?:and|or)\s?\}|\\(?:quad|qquad|[,;:!()\[\]])|\b(?:and|or)\b|[\s,;$.]")
_SENTENCE_END = re.compile(r"\.(?:\s|$)|\n|[!?](?:\s|$)")
_VERDICT = re.compile(r"(?:in)?correct|right|wrong|as follows", re.IGNORECASE)  # said about an answer, not an answer
_FILLER = re.compile(r"^(?:[\s:*=]|therefore|thus|so|approximately|about|exactly|only|clearly|simply)+", re.IGNORECASE)


def prose_answer(response: str, *, max_chars: int) -> str | None:
    """The answer a response states, boxed or not; None if it states nothing that could be one."""
    response = own_turn(response)
    boxed = _neighbouring_boxes(response, max_chars)
    if boxed is not None:
        return boxed
    tail = response[-max(_WINDOW, max_chars) :]
    return _bare(response) or _stated(tail) or _concluded(tail)


def _neighbouring_boxes(response: str, max_chars: int) -> str | None:
    r"""The last box, with the boxes joined to it: `\boxed{1} and \boxed{2}` answers `1, 2`."""
    answers: list[str] = []
    end = len(response)
    for _ in range(_MAX_BOXES):
        box = find_last(response[:end])
        if box is None:
            break
        between = response[box.end : end]
        if not 0 < len(box.content) <= max_chars or (answers and ("\n" in between or _JOINT.sub("", between))):
            break
        if box.content not in answers:
            answers.append(box.content)
        end = box.start
    return ", ".join(reversed(answers)) or None


def _bare(response: str) -> str | None:
    r"""A response that is nothing but the answer: one word, `(B)`, `-11`, `$\frac{1}{2}$`; without markup around it."""
    text = response.strip().strip("*").removesuffix(".").strip()
    if not text or len(text) > _BARE or "\n" in text or "=" in text or text.startswith("#") or text.endswith(":"):
        return None
    if found := _FORMULA.fullmatch(text):
        text = next(group for group in found.groups() if group).strip()
    if " " not in text:  # a script without blanks writes whole sentences so
        return text if any(char.isalnum() for char in text) and not _UNSPACED.search(text) else None
    mathematics = any(char.isdigit() for char in text) and not (text[0].isalpha() or _WORD.search(text))
    return text if mathematics else None


def _stated(text: str) -> str | None:
    """Returns what follows the last announcement of an answer."""
    marker = text.rfind("####")
    if marker >= 0 and (line := text[marker + 4 :].strip().split("\n")[0].strip()):
        return line
    lines = [line for line in text.rstrip().split("\n") if line.strip()]
    if lines and (found := _LINE_ANNOUNCEMENT.match(lines[-1][:_STATED])):
        return _first_value(found[1])
    lowered = text.casefold()
    if len(lowered) != len(text):  # a few characters change length; positions would be off
        lowered = text.lower() if len(text.lower()) == len(text) else text
    end = max((lowered.rfind(phrase) + len(phrase) for phrase in _ANNOUNCEMENTS if phrase in lowered), default=-1)
    return None if end < 0 else _first_value(text[end : end + _STATED])


def _first_value(text: str) -> str | None:
    """The first formula of the statement, else the rest of its first sentence."""
    text = _FILLER.sub("", text)
    sentence = _SENTENCE_END.split(text, maxsplit=1)[0].strip(" *:")
    if _VERDICT.fullmatch(sentence):
        return None
    if " is " in sentence:  # "the volume of $ABCD$ is 120"
        text = text[text.index(sentence) + sentence.rindex(" is ") + 4 :]
        sentence = sentence.rsplit(" is ", maxsplit=1)[1].strip(" *:")
    found = _FORMULA.search(text)
    if found and (found.start() <= len(sentence) or not sentence):
        return _last_side(next(group for group in found.groups() if group))
    number = _NUMBER.search(sentence)
    if number and len(sentence.split()) > 1:
        return number[0].replace("$", "")
    return sentence or None


def _concluded(text: str) -> str | None:
    """The last formula or number of the closing paragraph, whichever comes last; else the last number of the text."""
    paragraph = text.rstrip().rsplit("\n\n", maxsplit=1)[-1]
    for part in (paragraph, text):
        formulas, numbers = list(_FORMULA.finditer(part)), list(_NUMBER.finditer(part))
        if formulas and (not numbers or formulas[-1].end() >= numbers[-1].end()):
            return _last_side(next(group for group in formulas[-1].groups() if group))
        if numbers:
            return numbers[-1][0].strip(",.").replace("$", "")
    return None


def _last_side(formula: str) -> str:
    """The right side of a chain of equalities: what a computation arrives at."""
    return formula.rsplit("=", maxsplit=1)[-1].strip() if formula.count("=") else formula.strip()
