"""The default grader: exact values here, algebra in killable processes."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from fractions import Fraction
from typing import Any

from rzero.grading import acceptance, identity, numeric, reading, units
from rzero.grading.budgeted import Budgeted
from rzero.grading.extraction import last_boxed
from rzero.grading.values import Expression, Matrix, Measure, Region, Row, Value, Words

Pair = tuple[str, str]


class MathGrader(Budgeted):
    """Reads answers as typed values and compares them (`Grader`); math-verify and pint are asked in a killable process.

    `accepts` is `rzero.grading.acceptance`, `same` and `classes` are `rzero.grading.identity`.
    """

    def extract(self, response: str) -> str | None:
        """Content of the last box of a response; None if there is none."""
        return last_boxed(response, max_chars=self.max_chars)

    def accepts(self, prediction: str, reference: str) -> bool:
        return self.accepts_many([(prediction, reference)])[0]

    def accepts_many(self, pairs: Sequence[Pair]) -> list[bool]:
        """`accepts` for each pair of prediction and reference, their algebra spread over the workers."""
        values = self._values({text for pair in pairs if pair[0] != pair[1] for text in pair})
        return self.settled([self._claim(*pair, values) for pair in pairs], rule="equal")

    def same(self, left: str, right: str) -> bool:
        return self.same_many([(left, right)])[0]

    def same_many(self, pairs: Sequence[Pair]) -> list[bool]:
        """`same` for each pair."""
        unequal = {text for pair in pairs if pair[0] != pair[1] for text in pair}
        values = self._values(unequal)
        keys = self._keys(list(values.values()))
        return [
            bool(left.strip()) if left == right else keys[values[left]] == keys[values[right]] for left, right in pairs
        ]

    def classes(self, batch: Sequence[Sequence[str]]) -> list[list[int]]:
        """For each list of answers to one question: the index of the first answer that each is the same as."""
        several = [answers if len(set(answers)) > 1 else () for answers in batch]
        values = self._values({text for answers in several for text in answers})
        completed = [identity.in_context([values[text] for text in answers]) for answers in several]
        keys = self._keys([value for row in completed for value in row])
        self.counters["cheap"] += sum(not row for row in completed)
        return [
            _first_places([keys[value] for value in row]) if row else [0] * len(answers)
            for row, answers in zip(completed, batch, strict=True)
        ]

    def _values(self, texts: set[str]) -> dict[str, Value]:
        """The typed value of each text, its units looked up; one too long to be read is its spelling."""
        values = {text: reading.read(text) if len(text) <= self.max_chars else _spelling(text) for text in texts}
        asked = {name: ("unit", name) for value in values.values() for name in units.names(value)}
        answers = self.algebra.ask(asked.values())
        known = {name: _measure(answers[question]) for name, question in asked.items()}
        return {text: units.resolve(value, known) for text, value in values.items()}

    def _claim(self, left: str, right: str, values: Mapping[str, Value]) -> acceptance.Claim:
        if left == right:
            return bool(left.strip())
        if max(len(left), len(right)) > self.max_chars:
            return False
        if any(_with_point(a) == values[b] for a, b in ((left, right), (right, left))):
            return True
        kinds = {type(values[left]), type(values[right])}
        if len(kinds) == 2 and Expression in kinds and kinds & {Row, Region, Matrix}:
            return acceptance.pair(reading.cleaned(left), reading.cleaned(right))
        return acceptance.claim(values[left], values[right])

    def _keys(self, values: Sequence[Value]) -> dict[Value, Hashable]:
        """Returns what each value is compared by."""
        asked = {tex: ("key", tex) for value in values for tex in identity.formulas(value)}
        answers = self.algebra.ask(asked.values())
        known = {tex: _key(answers[question]) for tex, question in asked.items()}
        return {value: identity.key(value, known) for value in values}


def _spelling(text: str) -> Value:
    return Words(f"too long: {text}")


def _with_point(text: str) -> Value | None:
    """`1,22` as 1.22, the way half of the world writes it: in doubt for a reference that is that number."""
    written = numeric.decimal_comma(reading.cleaned(text))
    return None if written is None else numeric.parse_number(written)


def _measure(found: list[Any] | None) -> Measure | None:
    """Returns the measure that a worker gave of a unit (`rzero.grading.unit_names.measure`)."""
    if found is None:
        return None
    return Measure(tuple((name, power) for name, power in found[0]), Fraction(found[1]))


def _key(found: Any) -> Hashable:
    """Returns a worker's word on a formula (`rzero.grading.symbolic.key`) as a key; exact numbers as all numbers."""
    if not isinstance(found, list):
        return found
    if found[0] == "number":
        return ("number", Fraction(int(found[1], 16), int(found[2], 16)))
    return tuple(_key(part) for part in found)


def _first_places(keys: Sequence[Hashable]) -> list[int]:
    """For each key the index at which it is first seen."""
    first: dict[Hashable, int] = {}
    return [first.setdefault(key, place) for place, key in enumerate(keys)]
