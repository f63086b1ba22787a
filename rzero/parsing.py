"""Reading a Challenger response: its question and its own answer (docs/method.md#contracts).

A Challenger thinks, then prints one `<question> ... </question>` block and one `\\boxed{final answer}`. Everything here
is `str.find` and single passes, so that 50,000 opening tags cost as much as prose.

Three readers are selectable in the configuration. `parse_question` is ours. The authors have two, which disagree on
what is valid (docs/authors_code.md, D13); both are here so that their numbers can be reproduced:
`official_generation_parse` (question_generate.py) and `official_reward_parse` (caller_penalty.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable

from rzero.boxes import BOX, last_boxed
from rzero.turns import own_turn
from rzero.types import Question

OPEN, CLOSE = "<question>", "</question>"
_DONE = re.compile(CLOSE)  # a heading before the block belongs to the Challenger's thinking

# About the 2,048 prompt tokens the Solver reads (conf/challenger); a longer question could never be answered.
LONGEST_QUESTION = 8_000
LONGEST_ANSWER = 1_000
# What a Challenger copies out of its own instructions instead of solving its problem.
PLACEHOLDER_ANSWERS = frozenset({"final_answer", "final answer", "answer", "your answer", "...", "\\ldots", "\\dots"})
BRACKETS = {"{": "}", "[": "]", "<": ">"}

QuestionParser = Callable[[str], Question | None]
"""`parse(response)` -> the question, or None when the response holds no usable question block."""


def parse_question(response: str) -> Question | None:
    """The last question block of the Challenger's own turn and the last box after it; None without a usable block.

    What follows the opening of another turn is not read (`rzero.turns`). The block is stripped; NUL characters are
    removed from it. `answer` is None when no closed, non-empty box follows the block: a box in front of the question is
    not its answer, and one inside it would give the answer away.
    `question_fault` names the reason of a rejection. Linear in the length of the response.
    """
    if question_fault(response) is not None:
        return None
    response = own_turn(response, done=_DONE)
    start, end = _last_block(response)  # type: ignore[misc]
    return Question(text=_clean(response[start:end]), answer=_answer_after(response, end))


def question_fault(response: str) -> str | None:
    """Why `parse_question` rejects a response (a short slug for the log), or None when it does not.

    no_block, nested_block, empty_question, long_question, box_in_question, placeholder.
    """
    response = own_turn(response, done=_DONE)
    block = _last_block(response)
    if block is None:
        return "no_block"
    raw = response[block[0] : block[1]]
    if OPEN in raw:
        return "nested_block"
    text = _clean(raw)
    if not any(char.isprintable() and not char.isspace() for char in text):
        return "empty_question"
    if len(text) > LONGEST_QUESTION:
        return "long_question"
    if BOX in text:
        return "box_in_question"
    return "placeholder" if _is_placeholder(text) else None


def official_generation_parse(response: str) -> Question | None:
    """The authors' reading of sampled candidates (C: question_generate.py).

    Last block (possibly empty) and last box anywhere, an unclosed box losing its last character; None when either is
    missing. `answer` may be the empty string.
    """
    block, answer = _last_block(response), last_boxed(response, rule="generation")
    if block is None or answer is None:
        return None
    return Question(text=response[block[0] : block[1]].strip(), answer=answer)


def official_reward_parse(response: str) -> Question | None:
    """The authors' reading of Challenger rollouts (C: caller_penalty.py, with mathruler's box reader).

    A missing or unclosed box is the literal answer "None" and passes; an empty box or an empty question does not. The
    authors go on to use only the *last character* of the answer (docs/authors_code.md, R4); here it is kept whole and
    the `pre_2025_12` reward, the only one that looks at it, cuts it.
    """
    block = _last_block(response)
    if block is None:
        return None
    text, answer = response[block[0] : block[1]].strip(), last_boxed(response, rule="mathruler")
    answer = "None" if answer is None else answer
    return Question(text=text, answer=answer) if text and answer else None


def tag_only_parse(response: str) -> Question | None:
    """The last non-empty question block, whatever follows it; the answer is the last box or None."""
    block = _last_block(response)
    if block is None:
        return None
    text = response[block[0] : block[1]].strip()
    return Question(text=text, answer=last_boxed(response, rule="mathruler")) if text else None


def _last_block(response: str) -> tuple[int, int] | None:
    """Where the last block's text lies: each block runs from an opener to the first closer behind it."""
    found, position = None, 0
    while True:
        opener = response.find(OPEN, position)
        closer = response.find(CLOSE, opener + len(OPEN)) if opener >= 0 else -1
        if closer < 0:
            return found
        found = (opener + len(OPEN), closer)
        position = closer + len(CLOSE)


def _answer_after(response: str, end: int) -> str | None:
    answer = last_boxed(response[end:])
    if not answer or len(answer) > LONGEST_ANSWER:
        return None
    if answer.lower() in PLACEHOLDER_ANSWERS or _is_placeholder(answer):
        return None
    return answer


def _clean(raw: str) -> str:
    # NUL ends a C string in some tokenizers and databases; nothing a question says is lost with it
    return raw.replace("\0", "").strip()


def _is_placeholder(text: str) -> bool:
    """True for words in one pair of brackets, such as "{The full problem statement}": a hole nobody filled in."""
    if len(text) < 4 or BRACKETS.get(text[0]) != text[-1]:
        return False
    inner = text[1:-1]
    return sum(char.isalpha() for char in inner) > 2 and all(char.isalpha() or char in " _-,.'\n" for char in inner)
