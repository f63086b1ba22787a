r"""Option letters and short answers of multiple-choice and short-answer tasks.

A letter counts only where the text presents it as the answer. Where no letter is presented there is no answer: falling
back to a random letter, as published harnesses do, measures the number of options.
"""

from __future__ import annotations

import re

from rzero.grading.extraction import last_boxed

_TAIL = 4000  # characters at the end of a response in which an answer is looked for
_WRAP = r"(?:\\text(?:bf|rm|it)?\s?\{\s?|\\math(?:bf|rm)\s?\{\s?|[\s*(\[$]|\\\(|\\boxed\s?\{)*"
_STATED = re.compile(
    rf"answer(?:\s+(?:is|would be|must be|should be))?(?:\s?\*\*)?\s?:?\s?{_WRAP}([A-Z])(?![a-zA-Z'])", re.IGNORECASE
)
_OPTION = re.compile(rf"(?:option|choice)\s+(?:is\s+)?{_WRAP}([A-Z])(?![a-zA-Z'])", re.IGNORECASE)
_LABELLED = re.compile(rf"^{_WRAP}([A-Z])(?:\s?\}})?(?:\s?[)\]}}]|\.(?=\s|$)|:(?=\s|$)|\s?$)")
_ANNOUNCED = ("answer is", "answer:")


def option_letter(answer: str) -> str | None:
    r"""The letter of an answer that is an option: `C`, `(C)`, `\text{(C)}`, `C. Paris`, `(C) $x^2$`; else None."""
    found = _LABELLED.match(answer[:64])
    return found[1] if found else None


def choice_answer(response: str, *, options: int) -> str | None:
    """The letter a response to a question with `options` options settles on; None if it names none.

    The last statement ("the answer is (C)", "Answer: C", a box with a letter) counts, then a mention of an option in
    the last line, then a response that is nothing but a letter.
    """
    allowed = {chr(ord("A") + index) for index in range(options)}
    tail = response[-_TAIL:]
    boxed = last_boxed(tail, max_chars=_TAIL)
    candidates = [option_letter(boxed)] if boxed else []
    candidates += [letter for letter in reversed(_STATED.findall(tail)) if letter.isupper()]
    last_line = tail.rstrip().rsplit("\n", maxsplit=1)[-1]
    candidates += [letter for letter in reversed(_OPTION.findall(last_line)) if letter.isupper()]
    candidates.append(option_letter(tail.strip()))
    return next((letter for letter in candidates if letter in allowed), None)


def short_answer(response: str) -> str | None:
    """The phrase a response announces as its answer, without its full stop; the box if there is one; else None."""
    boxed = last_boxed(response, max_chars=_TAIL)
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
