"""Equality of two answers as a decision list: spelling, number, word, unit, name, collection, then the algebra system.

`Comparison` asks for symbolic verdicts through one function, so that a whole batch can first be run to see which are
needed and then be run again with the answers.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

from rzero.grading import normalise, numeric
from rzero.grading.choices import option_letter
from rzero.grading.judge import Symbolic
from rzero.grading.structure import Collection, Named, split_collection, split_name

_REMEMBERED = 8192  # texts, each at most as long as the grader allows
_MAX_NESTING = 4  # tuples inside sets inside names; deeper is not an answer
_BASED = re.compile(r"[0-9A-Fa-f]+_\{?\d+\}?")
_CLOCK = re.compile(r"\d{1,2}:\d{2}")
_RATIO = re.compile(r"(\d+):(\d+)")
_ITEM_BUDGET = 400  # item pairs of two collections


@lru_cache(maxsize=_REMEMBERED)
def _cleaned(text: str) -> str:
    return normalise.clean(text)


@lru_cache(maxsize=_REMEMBERED)
def _key(cleaned: str) -> str:
    return normalise.key(cleaned)


@lru_cache(maxsize=_REMEMBERED)
def _number(cleaned: str) -> numeric.Number | None:
    return numeric.parse_number(cleaned)


def same_answer(left: str, right: str, symbolic: Symbolic) -> bool:
    """Whether two answers are the same. Symmetric: the two are put in one order first."""
    if left == right:
        return bool(left.strip())
    first, second = sorted((_cleaned(left), _cleaned(right)))
    return _same(first, second, symbolic, _MAX_NESTING)


def _same(left: str, right: str, symbolic: Symbolic, depth: int) -> bool:
    verdict = cheap_verdict(left, right)
    if verdict is not None:
        return verdict
    if depth == 0:
        return False
    for rule in (_by_option, _by_unit, _by_name, _by_collection):
        verdict = rule(left, right, symbolic, depth - 1)
        if verdict is not None:
            return verdict
    if any(_BASED.fullmatch(text) or _CLOCK.fullmatch(text) for text in (left, right)):
        return False  # 4343_6 is not 4343, 1:00 is not 12:00: only spelling decides
    return symbolic(left, right)


def cheap_verdict(left: str, right: str) -> bool | None:
    """Equality by spelling, number or word; None where that does not decide."""
    if not left or not right:
        return False
    if left == right or _key(left) == _key(right):
        return True
    first, second = _number(left), _number(right)
    if first is not None and second is not None:
        return numeric.same_number(first, second) or numeric.decimal_comma(left) == right
    for comma, other in ((left, right), (right, left)):
        if (numeric.decimal_comma(comma) or comma) == other:
            return True
    if normalise.is_prose(left) or normalise.is_prose(right):
        return False  # words equal only themselves: no product of letters is `east`
    return None


def _by_option(left: str, right: str, symbolic: Symbolic, depth: int) -> bool | None:
    """`C` equals `(C) x^2 + 1`: an option letter stands for the option it labels."""
    if len(left) != 1 and len(right) != 1:
        return None
    first, second = option_letter(left), option_letter(right)
    return first == second if first and second else None


def _by_unit(left: str, right: str, symbolic: Symbolic, depth: int) -> bool | None:
    """A unit that only one side gives is spelling; two known units must be the same one."""
    (first, unit), (second, other) = normalise.split_unit(left), normalise.split_unit(right)
    if (first, second) == (left, right):
        return None
    if unit and other and unit != other and (normalise.known_unit(unit) and normalise.known_unit(other)):
        return False
    return _same(first, second, symbolic, depth)


def _by_name(left: str, right: str, symbolic: Symbolic, depth: int) -> bool | None:
    """`x = 5` equals 5 and `x = 5`; two different names are compared as equations."""
    first, second = split_name(left), split_name(right)
    if first and second:
        if _key(first.name) == _key(second.name):
            return _same(first.value, second.value, symbolic, depth)
        return None
    named, other = (first, right) if first else (second, left)
    if not isinstance(named, Named) or "=" in other:
        return None
    return _same(named.value, other, symbolic, depth)


def _by_collection(left: str, right: str, symbolic: Symbolic, depth: int) -> bool | None:
    """Collections element by element; a collection and a single answer have no symbolic verdict unless one is a set."""
    first, second = split_collection(left), split_collection(right)
    if first is None or second is None:
        single = first or second
        # Several answers are not one. An interval may still be an inequality, which algebra decides.
        return False if single is not None and not single.ordered and len(single.items) > 1 else None
    first, second = _share_name(first), _share_name(second)
    if len(first.items) != len(second.items) and (first.ordered or second.ordered):
        return False
    if first.ordered and second.ordered and first.brackets != second.brackets:
        return False

    def same(a: str, b: str) -> bool:
        return _same(a, b, symbolic, depth)

    if first.ordered or second.ordered:
        verdicts = [same(a, b) for a, b in zip(first.items, second.items, strict=True)]
        return all(verdicts)  # all asked at once, so that a batch needs one round of workers
    return _same_multiset(first.items, second.items, same)


def _share_name(collection: Collection) -> Collection:
    """`n = 1, 3, 5` names all three: take the name off the first item if no other item has one."""
    if collection.ordered:
        return collection
    first, *rest = collection.items
    named = split_name(first)
    if named is None or any(split_name(item) for item in rest):
        return collection
    return Collection(items=(named.value, *rest), brackets=collection.brackets)


def _same_multiset(left: tuple[str, ...], right: tuple[str, ...], same: Callable[[str, str], bool]) -> bool:
    """Every item of either side has a partner on the other; repetitions count once, as in a set."""
    if len(left) * len(right) > _ITEM_BUDGET:
        return False
    matches = [[same(a, b) for b in right] for a in left]
    return all(any(row) for row in matches) and all(any(column) for column in zip(*matches, strict=True))
