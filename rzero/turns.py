r"""Where a response ends although the text goes on: the next turn, which a base model invents.

A base model under a plain prompt seldom writes eos. It answers, then opens the next turn of the pattern it was shown
and answers that as well, so that "the last box counts" would read the answer to a question nobody asked. Every reader
of responses (boxes, prose, options, the Challenger's blocks) cuts here first; those of the authors do not.
"""

from __future__ import annotations

import re

from rzero.prompts import PLAIN_MARKERS

ANSWER = re.compile(
    r"\\boxed|\\fbox|\d|answer|\b(?:yes|no|true|false)\b|\([A-Z]\)|^[^\w\n]*[A-Z][^\w\n]*$",
    re.IGNORECASE | re.MULTILINE,
)
"""Signs that a Solver's turn has answered, whatever the reader: a box, a number, an option, a statement."""

_MARKERS = "|".join(map(re.escape, PLAIN_MARKERS))
_OPENS = re.compile(
    rf"^[ \t]{{0,3}}(?P<marker>{_MARKERS})"
    r"|\n[ \t]*\n[ \t]{0,3}(?P<heading>[*#]{0,4} ?(?:Question|Problem)(?:\*\*)?:)",
    re.MULTILINE,
)


def own_turn(response: str, *, done: re.Pattern[str] = ANSWER) -> str:
    """The response up to where it opens another turn; all of it where it does not.

    A turn is opened by a line that begins with a marker of our own plain prompts, spelt as they spell it, and by
    `Question:` or `Problem:` behind a blank line. The latter may also be the model's headings for the question it was
    asked, so they count only behind something that matches `done`. `assistant:` at the very start opens its own turn.
    Linear in the length of the response.
    """
    first = done.search(response)
    for opener in _OPENS.finditer(response):
        if opener["heading"]:
            if first is not None and first.end() <= opener.start():
                return response[: opener.start()]
        elif response[: opener.start()].strip() or opener["marker"] != PLAIN_MARKERS[-1]:
            return response[: opener.start()]
    return response
