"""The micro world: six families of questions, each a ladder of difficulty, and the oracle that knows every answer.

A family writes questions (`make`), reads them back (`read`) and shows the steps that lead to the answer (`work`).
`oracle` is the parser side: it takes any text and answers only when the text is a well-formed question of the world.
It is used for measuring only; nothing in `rzero` can import this package (a test checks the direction of imports).

The level of a question is the number of elementary steps its solution takes, from 1 upwards.

Held-out items: the sha256 of a question's text puts it into one of `BUCKETS` buckets. Buckets 0 and 1 belong to the
development and the test split; the corpus writer skips both, so a base model has never seen a benchmark item.
"""

from __future__ import annotations

import hashlib
import itertools
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from evaluation.problems import BenchmarkGroup

BUCKETS = 10
SPLIT_BUCKET = {"dev": 0, "test": 1}
NAMES = ("Ann", "Bob", "Eve", "Kim", "Leo", "Mia", "Sam", "Tom")
THINGS = ("pens", "cards", "coins", "books", "eggs", "nuts")
PEOPLE = "ABCDEFGHJK"
GAINS = ("finds", "buys", "gets")
LOSSES = ("loses", "sells", "gives away")
FACTORS = (2, 3, 4, 6, 7, 8, 9)  # no 5: it would turn most last digits into 0
LARGEST = 99
HARDEST = 16
"""Steps of the longest question that is read; a chain of people has one person more than steps."""

Step = tuple[int, str, int]
"""One arithmetic step: left operand, operator, right operand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A question of the world in parsed form; `state` is what the family's own functions need to solve it."""

    family: str
    level: int
    state: tuple[Any, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One kind of question. `levels` is the highest level of the corpus, `hardest` the highest that is read back."""

    name: str
    group: BenchmarkGroup
    levels: int
    hardest: int
    make: Callable[[random.Random, int], Problem]
    write: Callable[[Problem], str]
    read: Callable[[str], Problem | None]
    work: Callable[[Problem, Callable[[int], int]], tuple[list[str], str]]
    """Steps as text and the answer; the callable is applied to every intermediate result (identity, or slips)."""


def bucket(question: str) -> int:
    """The bucket of a question, by the hash of its text: stable across runs, machines and Python versions."""
    return int.from_bytes(hashlib.sha256(question.encode()).digest()[:4], "big") % BUCKETS


def calculate(step: Step) -> int:
    left, operator, right = step
    return left + right if operator == "+" else left - right if operator == "-" else left * right


# ---------------------------------------------------------------------------------------------------------------- sums


def _chain(rng: random.Random, level: int, start: int) -> tuple[tuple[str, int], ...]:
    """`level` additions and subtractions that keep the running value within 0..LARGEST."""
    value, moves = start, []
    for _ in range(level):
        operator = rng.choice("+-")
        amount = rng.randint(1, 20)
        if not 0 <= calculate((value, operator, amount)) <= LARGEST:
            operator = "-" if operator == "+" else "+"
        value = calculate((value, operator, amount))
        moves.append((operator, amount))
    return tuple(moves)


def _work_chain(start: int, moves: tuple[tuple[str, int], ...], note: Callable[[int], int]) -> tuple[list[str], str]:
    value, lines = start, []
    for operator, amount in moves:
        result = note(calculate((value, operator, amount)))
        lines.append(f"{value} {operator} {amount} = {result}.")
        value = result
    return lines, str(value)


def _make_sum(rng: random.Random, level: int) -> Problem:
    start = rng.randint(1, 50)
    return Problem(family="sum", level=level, state=(start, _chain(rng, level, start)))


def _write_moves(moves: tuple[tuple[str, int], ...]) -> str:
    return "".join(f" {operator} {amount}" for operator, amount in moves)


_MOVES = rf"((?: [+-] [0-9]{{1,3}}){{1,{HARDEST}}})"
_SUM = re.compile(rf"Compute ([0-9]{{1,3}}){_MOVES}\.")
_MOVE = re.compile(r"([+-]) ([0-9]{1,3})")


def _read_moves(text: str) -> tuple[tuple[str, int], ...]:
    return tuple((operator, int(amount)) for operator, amount in _MOVE.findall(text))


def _read_sum(text: str) -> Problem | None:
    if not (found := _SUM.fullmatch(text)):
        return None
    moves = _read_moves(found[2])
    return Problem(family="sum", level=len(moves), state=(int(found[1]), moves))


# ------------------------------------------------------------------------------------------------------ last digits

_DIGIT = re.compile(rf"Find the last digit of ([0-9](?: \* [0-9]){{1,{HARDEST}}})\.")


def _make_digit(rng: random.Random, level: int) -> Problem:
    return Problem(family="digit", level=level, state=tuple(rng.choice(FACTORS) for _ in range(level + 1)))


def _write_digit(problem: Problem) -> str:
    return f"Find the last digit of {' * '.join(str(factor) for factor in problem.state)}."


def _read_digit(text: str) -> Problem | None:
    if not (found := _DIGIT.fullmatch(text)):
        return None
    factors = tuple(int(factor) for factor in found[1].split(" * "))
    return Problem(family="digit", level=len(factors) - 1, state=factors)


def _work_digit(problem: Problem, note: Callable[[int], int]) -> tuple[list[str], str]:
    value, *rest = problem.state
    lines = []
    for factor in rest:
        result = note(value * factor)
        lines.append(f"{value} * {factor} = {result}.")
        value = abs(result) % 10
    return lines, str(value)


# --------------------------------------------------------------------------------------------------------- equations

_SOLVE = re.compile(rf"Solve x{_MOVES} = (-?[0-9]{{1,3}})\.")


def _make_solve(rng: random.Random, level: int) -> Problem:
    unknown = rng.randint(1, 50)
    moves = _chain(rng, level, unknown)
    total = unknown
    for operator, amount in moves:
        total = calculate((total, operator, amount))
    return Problem(family="solve", level=level, state=(moves, total))


def _read_solve(text: str) -> Problem | None:
    if not (found := _SOLVE.fullmatch(text)):
        return None
    moves = _read_moves(found[1])
    return Problem(family="solve", level=len(moves), state=(moves, int(found[2])))


def _work_solve(problem: Problem, note: Callable[[int], int]) -> tuple[list[str], str]:
    moves, total = problem.state
    undo = tuple(("-" if operator == "+" else "+", amount) for operator, amount in reversed(moves))
    return _work_chain(total, undo, note)


# --------------------------------------------------------------------------------------------------------- sequences

_SEQUENCE = re.compile(r"Continue ([0-9]{1,3}), ([0-9]{1,3}), ([0-9]{1,3})\. What comes ([0-9]{1,2}) later\?")


def _make_sequence(rng: random.Random, level: int) -> Problem:
    return Problem(family="sequence", level=level, state=(rng.randint(1, 40), rng.randint(2, 9)))


def _write_sequence(problem: Problem) -> str:
    start, difference = problem.state
    shown = ", ".join(str(start + index * difference) for index in range(3))
    return f"Continue {shown}. What comes {problem.level} later?"


def _read_sequence(text: str) -> Problem | None:
    if not (found := _SEQUENCE.fullmatch(text)):
        return None
    first, second, third, later = (int(value) for value in found.groups())
    if third - second != second - first or second <= first or not 1 <= later <= HARDEST:
        return None
    return Problem(family="sequence", level=later, state=(first, second - first))


def _work_sequence(problem: Problem, note: Callable[[int], int]) -> tuple[list[str], str]:
    start, difference = problem.state
    return _work_chain(start + 2 * difference, (("+", difference),) * problem.level, note)


# --------------------------------------------------------------------------------------------------------- orderings

_PAIR = re.compile(r"([A-K])<([A-K])")
_ORDER = re.compile(rf"([A-K]<[A-K](?:, [A-K]<[A-K]){{0,{HARDEST - 1}}})\. Who is (first|last)\?")


def _make_order(rng: random.Random, level: int) -> Problem:
    people = rng.sample(PEOPLE, level + 1)
    pairs = list(itertools.pairwise(people))
    rng.shuffle(pairs)
    return Problem(family="order", level=level, state=(tuple(pairs), rng.choice(("first", "last"))))


def _write_order(problem: Problem) -> str:
    pairs, end = problem.state
    return ", ".join(f"{left}<{right}" for left, right in pairs) + f". Who is {end}?"


def _read_order(text: str) -> Problem | None:
    if not (found := _ORDER.fullmatch(text)):
        return None
    pairs = tuple(_PAIR.findall(found[1]))
    after, before = dict(pairs), {right: left for left, right in pairs}
    starts = set(after) - set(before)
    if len(after) != len(pairs) or len(before) != len(pairs) or len(starts) != 1:
        return None  # somebody has two neighbours on one side, or the chain is a ring or in pieces
    person, seen = next(iter(starts)), 1
    while person in after:
        person, seen = after[person], seen + 1
    if seen != len(pairs) + 1:
        return None
    return Problem(family="order", level=len(pairs), state=(pairs, found[2]))


def _work_order(problem: Problem, note: Callable[[int], int]) -> tuple[list[str], str]:
    """Walk from the person named first towards the asked end. A slip takes the walk to somebody else."""
    pairs, end = problem.state
    follow = {right: left for left, right in pairs} if end == "first" else dict(pairs)
    people = sorted({person for pair in pairs for person in pair})
    person: str = pairs[0][0]
    lines: list[str] = []
    while person in follow and len(lines) < len(people):
        index = people.index(follow[person])
        following = people[note(index) % len(people)]
        lines.append(f"{person}{'>' if end == 'first' else '<'}{following}.")
        person = following
    return lines, person


# ----------------------------------------------------------------------------------------------------------- stories

_VERBS = "|".join(GAINS + LOSSES)
_STORY = re.compile(
    rf"({'|'.join(NAMES)}) has ([0-9]{{1,3}}) ({'|'.join(THINGS)})\. "
    rf"((?:\1 (?:{_VERBS}) [0-9]{{1,3}}\. ){{1,{HARDEST}}})How many \3 has \1\?"
)
_EVENT = re.compile(rf" ({_VERBS}) ([0-9]{{1,3}})\. ")


def _make_story(rng: random.Random, level: int) -> Problem:
    start = rng.randint(1, 50)
    verbs = tuple(
        (rng.choice(GAINS if operator == "+" else LOSSES), amount) for operator, amount in _chain(rng, level, start)
    )
    return Problem(family="story", level=level, state=(rng.choice(NAMES), rng.choice(THINGS), start, verbs))


def _write_story(problem: Problem) -> str:
    name, thing, start, verbs = problem.state
    events = "".join(f"{name} {verb} {amount}. " for verb, amount in verbs)
    return f"{name} has {start} {thing}. {events}How many {thing} has {name}?"


def _read_story(text: str) -> Problem | None:
    if not (found := _STORY.fullmatch(text)):
        return None
    verbs = tuple((verb, int(amount)) for verb, amount in _EVENT.findall(found[4]))
    return Problem(family="story", level=len(verbs), state=(found[1], found[3], int(found[2]), verbs))


def _work_story(problem: Problem, note: Callable[[int], int]) -> tuple[list[str], str]:
    _, _, start, verbs = problem.state
    moves = tuple(("+" if verb in GAINS else "-", amount) for verb, amount in verbs)
    return _work_chain(start, moves, note)


FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family(
            name="sum",
            group="math",
            levels=10,
            hardest=HARDEST,
            make=_make_sum,
            write=lambda problem: f"Compute {problem.state[0]}{_write_moves(problem.state[1])}.",
            read=_read_sum,
            work=lambda problem, note: _work_chain(problem.state[0], problem.state[1], note),
        ),
        Family(
            name="digit",
            group="math",
            levels=10,
            hardest=HARDEST,
            make=_make_digit,
            write=_write_digit,
            read=_read_digit,
            work=_work_digit,
        ),
        Family(
            name="solve",
            group="math",
            levels=10,
            hardest=HARDEST,
            make=_make_solve,
            write=lambda problem: f"Solve x{_write_moves(problem.state[0])} = {problem.state[1]}.",
            read=_read_solve,
            work=_work_solve,
        ),
        Family(
            name="sequence",
            group="general",
            levels=9,
            hardest=HARDEST,
            make=_make_sequence,
            write=_write_sequence,
            read=_read_sequence,
            work=_work_sequence,
        ),
        Family(
            name="order",
            group="general",
            levels=9,
            hardest=len(PEOPLE) - 1,
            make=_make_order,
            write=_write_order,
            read=_read_order,
            work=_work_order,
        ),
        Family(
            name="story",
            group="general",
            levels=10,
            hardest=HARDEST,
            make=_make_story,
            write=_write_story,
            read=_read_story,
            work=_work_story,
        ),
    )
}


def solve(problem: Problem) -> str:
    """The true answer."""
    return FAMILIES[problem.family].work(problem, lambda value: value)[1]


def oracle(question: str) -> tuple[Problem, str] | None:
    """The parsed question and its true answer, or None when the text is not a well-formed question of the world."""
    for family in FAMILIES.values():
        if problem := family.read(question.strip()):
            return problem, solve(problem)
    return None
