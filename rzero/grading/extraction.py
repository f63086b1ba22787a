r"""Finding the answer in a response, in time linear in its length.

Training reads boxes only: the contract of both roles is one `\boxed{final answer}`, and the last one counts, because a
model that corrects itself boxes again. Evaluation of models that never saw that contract may also read prose
(`prose_answer`), which is a separate, explicit choice.

Every scanner here is `str.find` or a single pass; a regex over model text is quadratic sooner or later (the authors'
`findall` takes 25 s for 20,000 openers).
"""

from __future__ import annotations

import re

_OPENERS = ("\\boxed", "\\fbox")
# The opener may be followed by this much white space (`\boxed {5}`); more is not LaTeX anybody writes.
_MAX_GAP = 8


def last_boxed(text: str, *, max_chars: int) -> str | None:
    r"""Content of the last closed `\boxed{...}` or `\fbox{...}` of `text`, stripped; None if there is none.

    * Braces are matched; `\{` and `\}` do not count. An opener that never closes is no box, and the box before it is
      not taken in its place: a response cut off inside its final box has no answer yet.
    * `\boxed {5}` is a box; so is `\boxed 5` (TeX boxes one token), if the token is a single digit or letter.
    * A box that holds only white space is no answer. A box longer than `max_chars` is no answer either.
    * Of boxes inside boxes the outer one counts: the inner closes before it.
    """
    start = _last_opener(text)
    if start < 0:
        return None
    start = _outermost(text, start)
    after = start + _opener_length(text, start)
    body = after
    while body < len(text) and body - after < _MAX_GAP and text[body] in " \t\n":
        body += 1
    if body >= len(text):
        return None
    if text[body] != "{":
        return text[body] if body > after and text[body].isalnum() else None
    end = closing_brace(text, body)
    if end is None or end - body - 1 > max_chars:
        return None
    return text[body + 1 : end].strip() or None


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


def _last_opener(text: str) -> int:
    """Start of the last `\\boxed` or `\\fbox` that is a whole command, -1 if there is none."""
    best = -1
    for opener in _OPENERS:
        end = len(text)
        while (found := text.rfind(opener, best + 1, end)) > best:
            following = text[found + len(opener) : found + len(opener) + 1]
            if not following.isalpha():
                best = found
                break
            end = found + len(opener) - 1
    return best


def _opener_length(text: str, start: int) -> int:
    return next(len(opener) for opener in _OPENERS if text.startswith(opener, start))


def _outermost(text: str, last: int) -> int:
    """The opener of the box around the one at `last`, found in one pass over at most a few nested boxes."""
    for _ in range(4):
        before = max(text.rfind(opener, 0, last) for opener in _OPENERS)
        if before < 0:
            return last
        body = before + _opener_length(text, before)
        if text[body : body + 1] != "{":
            return last
        end = closing_brace(text, body)
        if end is None or end < last:
            return last
        last = before
    return last


def last_boxed_official(text: str) -> str | None:
    r"""The authors' extraction: the last `\boxed{`, closed by counting every brace; "" for an empty box, None for none.

    An inner box therefore wins over the one around it, `\{` counts as a brace, and no length is too long.
    """
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth = 0
    for match in _ANY_BRACE.finditer(text, start):
        depth += 1 if match[0] == "{" else -1
        if depth == 0:
            return text[start + len("\\boxed{") : match.start()].strip()
    return None


_ANY_BRACE = re.compile(r"[{}]")
