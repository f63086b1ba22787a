"""The cost gate: what is too expensive to hand to a computer algebra system is not handed over.

The budget of the workers would stop such a text too, but half a CPU second each, thousands of times, is a way to stop
training. The gate is a few linear passes. A text over it has no symbolic verdict: it equals only its own spelling.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_DIGIT_RUN = re.compile(r"\d+")
_EXPONENT = re.compile(r"(?:\^|\*\*)\s?\{?\s?[-+]?\s?(\d+)")
_FACTORIAL = re.compile(r"(\d+|[a-zA-Z]|\([^()]{0,40}\)|\{[^{}]{0,40}\}|[)}\]])\s?!")
_PLAIN_OPERAND = re.compile(r"[\w\s+(){}-]*\w[\s)}]*")  # (n-k)! yes, (10^8)! and (a!)! no
_REPEATED = re.compile(r"!\s?[)}]?\s?!")
_MAX_FACTORIALS = 8
_COMMAND = re.compile(r"\\[a-zA-Z]+")
_TEMPLATE = re.compile(r"\$\{|\{\{|__|;|`|<\||\|>")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """Bounds on a text that may be compared symbolically. `reason(text)` names the bound it breaks, or is None."""

    max_chars: int
    max_depth: int
    max_digits: int
    max_exponent: int
    max_tower: int
    max_factorial: int
    max_commands: int

    def reason(self, text: str) -> str | None:
        if len(text) > self.max_chars:
            return "length"
        if not text.isprintable() or _TEMPLATE.search(text):
            return "not mathematics"
        depth, tower = self._nesting(text)
        if depth > self.max_depth:
            return "nesting"
        if tower > self.max_tower:
            return "exponent tower"
        if any(len(run) > self.max_digits for run in _DIGIT_RUN.findall(text)):
            return "digits"
        if any(int(power) > self.max_exponent for power in _EXPONENT.findall(text)):
            return "exponent"
        if self._factorials_too_big(text):
            return "factorial"
        if len(_COMMAND.findall(text)) > self.max_commands:
            return "commands"
        return None

    def _factorials_too_big(self, text: str) -> bool:
        operands = _FACTORIAL.findall(text)
        if _REPEATED.search(text) or len(operands) > _MAX_FACTORIALS:
            return True
        return any(not _PLAIN_OPERAND.fullmatch(operand) or self._large(operand) for operand in operands)

    def _large(self, operand: str) -> bool:
        return any(int(number) > self.max_factorial for number in _DIGIT_RUN.findall(operand))

    @staticmethod
    def _nesting(text: str) -> tuple[int, int]:
        """(depth of brackets, number of powers inside one another), in one pass; unbalanced closers are ignored."""
        depth = deepest = tower = powers = chain = 0
        levels: list[tuple[int, int, bool]] = []  # per open bracket: powers outside, chain before, is it an exponent
        exponent_end = -1  # where the last exponent ended: a `^` right there goes on with the same tower
        compact = text.replace("**", "^").replace(" ", "")
        for index, character in enumerate(compact):
            if character == "^":
                chain = chain + 1 if exponent_end == index else 1
                tower = max(tower, powers + chain)
                exponent_end = index + 2
            elif character in "([{":
                is_exponent = index > 0 and compact[index - 1] == "^"
                levels.append((powers, chain, is_exponent))
                powers += chain if is_exponent else 0
                depth += 1
                exponent_end = -1
                deepest = max(deepest, depth)
            elif character in ")]}" and levels:
                powers, chain, is_exponent = levels.pop()
                depth -= 1
                exponent_end = index + 1 if is_exponent else -1
            elif exponent_end == index and character.isdigit():
                exponent_end = index + 1  # `2^34^5` as a calculator reads it
        return deepest, tower
