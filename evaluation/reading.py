r"""Which part of a response counts as its answer, for each kind of benchmark.

Every kind reads the last box first. Mathematics may also read prose (`stated`), for models that never learned to box;
options and short answers accept an announced answer ("Final Answer: B"), as the published harnesses do, with or without
a line break behind it (docs/authors_code.md, D17). Nothing here guesses: no answer is None.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal

from rzero.boxes import closing_brace, last_boxed
from rzero.grading.choices import choice_answer
from rzero.grading.prose import prose_answer
from rzero.turns import own_turn

Reading = Literal["boxed", "stated"]

MAX_CHARS = 4000  # of an answer; the longest gold answer of the ten benchmarks has 256
_BOX = re.compile(r"\\boxed", re.IGNORECASE)
_USER, _ASSISTANT = "<|im_start|>user", "<|im_start|>assistant"
_TAG = re.compile(r"</?(?:b|i|u|em|strong|span|p)>")
_BARE = re.compile(r"[{(\s]*([A-Z])[)}\s]*")
_ENDS = ("</s>", "<|im_end|>", "<|endoftext|>")
_ANNOUNCED = ("Final Answer:", "The answer is:")


def mathematics_answer(response: str, *, reading: Reading, extract: Callable[[str], str | None]) -> str | None:
    r"""The answer to a mathematics problem; `extract` reads boxes (a grader's). `\BOXED` is a box too."""
    response = _BOX.sub(r"\\boxed", response)
    if reading == "boxed":
        return extract(response)
    return prose_answer(response, max_chars=MAX_CHARS)


def option_answer(response: str, *, options: int) -> str | None:
    r"""The letter the response settles on, or None. Braces and HTML tags around it do not matter: `\boxed{{C}}`."""
    text = _TAG.sub("", _BOX.sub(r"\\boxed", _response(response)))
    boxed = last_boxed(text)
    if boxed is None and (brace := text.find("{", text.rfind("\\boxed"))) >= 0 and closing_brace(text, brace) is None:
        text = text[: text.rfind("\\boxed")]  # cut off inside its box: what would have been in there is unknown
    if boxed is not None and (bare := _BARE.fullmatch(boxed)) and ord(bare[1]) - ord("A") < options:
        return bare[1]
    return choice_answer(text, options=options)


def phrase_answer(response: str) -> str | None:
    """The last box, else what follows the last "Final Answer:", else the last "The answer is:"; else None."""
    text = _response(response)
    boxed = last_boxed(_BOX.sub(r"\\boxed", text))
    if boxed is not None and len(boxed) <= MAX_CHARS:
        return boxed
    for phrase in _ANNOUNCED:
        start = text.rfind(phrase)
        if start >= 0:
            line = text[start + len(phrase) : start + len(phrase) + MAX_CHARS].strip().split("\n")[0]
            return line.strip(" *") or None
    return None


def _response(text: str) -> str:
    """The model's own turn: without a repeated request before it and without what was written after its end."""
    if _USER in text:
        before, marker, after = text.partition(_ASSISTANT)
        text = marker + after if marker else before
    elif "Assistant:" in text:
        text = text.rpartition("Assistant:")[2]
    for end in _ENDS:
        text = text.partition(end)[0]
    return own_turn(text.strip())
