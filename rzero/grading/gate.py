"""The cost gate: what is too expensive to hand to a computer algebra system is not handed over.

The budget of the workers would stop such a text too, but half a CPU second each, thousands of times, is a way to stop
training. The gate is a few linear passes. A text over it has no symbolic verdict: it equals only its own spelling.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_DIGIT_RUN = re.compile(r"\d+")
_EXPONENT = re.compile(r"(?:\^|\*\*)\s?\{?\s?[-+]?\s?(\d+)")
_FACTORIAL = re.compile(r"(\d+|[)}a-zA-Z])\s?!")
_COMPOUND_FACTORIAL = re.compile(r"[)}!]\s?\}?\s?!")
_COMMAND = re.compile(r"\\[a-zA-Z]+")
_HEAVY = re.compile(r"\\(?:int|iint|oint|sum|prod|lim|binom|bigcup|bigcap|pmod|bmod|mod)(?![a-zA-Z])")
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
        if _COMPOUND_FACTORIAL.search(text):
            return True  # (n)! and n!!: the size of the argument is not visible
        numbers = [operand for operand in _FACTORIAL.findall(text) if operand.isdigit()]
        return any(int(number) > self.max_factorial for number in numbers) or len(numbers) > 8

    @staticmethod
    def _nesting(text: str) -> tuple[int, int]:
        """(depth of brackets, number of powers inside one another), in one pass; unbalanced closers are ignored."""
        depth = deepest = tower = 0
        levels: list[int] = []  # per open bracket: powers around it
        powers = pending = 0
        for index, character in enumerate(text):
            if character == "^" or (character == "*" and text[index - 1 : index] == "*"):
                pending += 1
                tower = max(tower, powers + pending)
            elif character in "([{":
                levels.append(powers)
                powers += pending
                pending = 0
                depth += 1
                deepest = max(deepest, depth)
            elif character in ")]}" and levels:
                powers = levels.pop()
                depth -= 1
                pending = 0
            elif character in "+-=,;<>&" or (character.isspace() and pending == 0):
                pending = 0 if index and text[index - 1] not in "^*" else pending
        return deepest, tower
