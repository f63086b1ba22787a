r"""Option letters and short answers of multiple-choice and short-answer tasks.

A letter counts only where the text presents it as the answer. The article "A" and the pronoun "I" are words, and of
several letters in a row ("A, B and C") none is the answer. Where no letter is presented there is no answer: falling
back to a random letter, as published harnesses do, measures the number of options.
"""

from __future__ import annotations

import re

from rzero.boxes import last_boxed
from rzero.turns import own_turn

_TAIL = 4000  # characters at the end of a response in which an answer is looked for
_WRAP = r"(?:\\text(?:bf|rm|it)?\s?\{\s?|\\math(?:bf|rm)\s?\{\s?|[\s*(\[$]|\\\(|\\boxed\s?\{)*"
_STATED = re.compile(
    rf"answer(?:\s+(?:is|would be|must be|should be))?(?:\s?\*\*)?\s?:?\s?{_WRAP}([A-Z])(?![a-zA-Z'])", re.IGNORECASE
)
_OPTION = re.compile(rf"(?:option|choice)\s+(?:is\s+)?{_WRAP}([A-Z])(?![a-zA-Z'])", re.IGNORECASE)
_LABELLED = re.compile(rf"^{_WRAP}([A-Z])(?:\s?\}})?(?:\s?[)\]}}]|\.(?=\s|$)|:(?=\s|$)|\s?$)")
_ANNOUNCED = ("answer is", "answer:")
_END = r"(?:\s?\})?\s?[)\]}*$]*"
_WORD_BEHIND = re.compile(r"\s+(?!(?:as|because|since|for|by|due|so|then|which|and|or|but|with|where|if|in)\b)[a-z]")
_LETTER_BEHIND = re.compile(
    rf"{_END}\s*(?:(?:,\s*)?(?:and|or|&|/)\s*{_WRAP}[A-Z]{{1,4}}(?![a-zA-Z'])"
    rf"|,\s*{_WRAP}[A-Z](?![a-zA-Z']){_END}\s*(?:[,.;]|and\b|or\b|$))"
)
_LABEL = re.compile(r"^[ \t]*[(\[*]*([A-Z])(?:[)\]]|[.:](?=\s))", re.MULTILINE)


def option_letter(answer: str) -> str | None:
    r"""The letter of an answer that is an option: `C`, `(C)`, `\text{(C)}`, `C. Paris`, `(C) $x^2$`; else None."""
    found = _LABELLED.match(answer[:64])
    return found[1] if found else None


def choice_answer(response: str, *, options: int) -> str | None:
    """The letter a response to a question with `options` options settles on; None if it names none.

    The last statement ("the answer is (C)", "Answer: C", a box with a letter) counts, then a mention of an option in
    the last line, then a response that is nothing but one option.
    """
    allowed = {chr(ord("A") + index) for index in range(options)}
    tail = own_turn(response)[-_TAIL:]
    boxed = last_boxed(tail)
    candidates = [option_letter(boxed)] if boxed and not _several(boxed) else []
    candidates += _presented(_STATED, tail)
    candidates += _presented(_OPTION, tail.rstrip().rsplit("\n", maxsplit=1)[-1])
    whole = tail.strip(" \t\n*$")
    if not _several(whole):
        candidates.append(option_letter(whole))
    return next((letter for letter in candidates if letter in allowed), None)


def _presented(pattern: re.Pattern[str], text: str) -> list[str]:
    """The letters that `pattern` finds as options, the last one first."""
    return [found[1] for found in reversed(list(pattern.finditer(text))) if _is_option(text, found)]


def _is_option(text: str, found: re.Match[str]) -> bool:
    """False for small letters, for "A" and "I" as words, and for a letter in a row of letters."""
    letter, end = found[1], found.end()
    word = letter in "AI" and text[found.start(1) - 1] not in "([{*$" and _WORD_BEHIND.match(text, end)
    return letter.isupper() and not word and not _LETTER_BEHIND.match(text, end)


def _several(text: str) -> bool:
    """True for a list: letters in a row, or lines with labels of their own."""
    found = _LABELLED.match(text[:64])
    return len(set(_LABEL.findall(text))) > 1 or (found is not None and bool(_LETTER_BEHIND.match(text, found.end(1))))


def short_answer(response: str) -> str | None:
    """The phrase a response announces as its answer, without its full stop; the box if there is one; else None."""
    response = own_turn(response)
    boxed = last_boxed(response)
    if boxed is not None:
        return boxed
    tail = response[-_TAIL:]
    lowered = tail.lower()
    if len(lowered) != len(tail):
        lowered = tail
    end = max((lowered.rfind(phrase) + len(phrase) for phrase in _ANNOUNCED if phrase in lowered), default=-1)
    if end < 0:
        return None
    phrase = tail[end:].strip().split("\n")[0].strip()
    return phrase.removesuffix(".").strip(" *:") or None
