"""Questions, answers and votes that try to become something else where they are shown."""

from __future__ import annotations

import random

from rzero.types import LabelledQuestion, Vote

HOSTILE = (
    "<script>alert(1)</script><img src=http://evil.example/x.png onerror=alert(2)>",
    "</td></table></body> & &amp; \"quoted\" 'too'",
    "{{ 7 * 7 }} {% for x in range(9) %}x{% endfor %} {# gone #}",
    "${oc.env:HOME} ${nowhere:} ???",
    "![picture](http://evil.example/y.png) [link](javascript:alert(3)) | cell | <http://evil.example>",
    "line\n# heading\n\n```\n| a | b |\n---\n* item",
    "\x1b[31mred\x1b[0m \x00 \x7f \x9b31m \u202egnp.exe \u2066x \u200b \ud800 \ue000",
    "`code` $x_1$ ~~gone~~ **bold** \\",
)


def hostile_questions(iteration: int, rng: random.Random) -> list[LabelledQuestion]:
    """Every hostile text as a question, an answer, a label and a vote."""
    return [
        LabelledQuestion(
            iteration=iteration,
            index=index,
            question=text,
            challenger_answer=text,
            vote=Vote(label=text, count=2, divisor=3, counts=((text, 2), ("1", 1)), answers=(text, text, "1")),
            drop_reason=None if index % 2 else f"reason_{index}",
        )
        for index, text in enumerate(HOSTILE)
    ]
