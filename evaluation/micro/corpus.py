"""The text a micro base model is pre-trained on: an imperfect web of questions, answers and posed problems.

Two kinds of documents, both in the chat form in which the model is later used:

* Somebody answers a question. Some answers are worked out step by step, some are dashed off without working (and
  right, but a small model cannot learn to guess a long sum). Worked steps slip now and then, and the slip is carried
  on. A few answers forget the box.
* Somebody poses a question of a mathematics family, mostly an easy one, with an answer that is not always right.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from evaluation.micro.world import BUCKETS, FAMILIES, SPLIT_BUCKET, Family, Problem, bucket, solve

SLIPS = (-10, -2, -1, 1, 2, 10)


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One chat: `role` names whose prompt opens it (challenger or solver), `question` is empty for the Challenger."""

    role: str
    question: str
    response: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusSpec:
    """Probabilities in [0, 1]; level weights are relative and start at level 1.

    dashed_off: an answer without working. slip: one step of a worked answer is wrong. no_box: the answer is stated
    without a box. posed: the document poses a question. posed_wrong: its stated answer is wrong. posed_broken: its
    format is broken.
    """

    dashed_off: float
    slip: float
    no_box: float
    answer_levels: tuple[float, ...]
    posed: float
    posed_wrong: float
    posed_broken: float
    posed_levels: tuple[float, ...]


def held_out(question: str) -> bool:
    """Returns whether a question belongs to the development or the test split of the benchmarks."""
    return bucket(question) in SPLIT_BUCKET.values()


def draw(rng: random.Random, family: Family, level: int, *, split: str | None = None) -> tuple[Problem, str]:
    """A question of the training part (`split=None`) or of a benchmark split, with its text."""
    for _ in range(1000 * BUCKETS):
        problem = family.make(rng, level)
        question = family.write(problem)
        if not held_out(question) if split is None else bucket(question) == SPLIT_BUCKET[split]:
            return problem, question
    raise ValueError(f"family {family.name} level {level} has no question in split {split!r}")


def documents(spec: CorpusSpec, *, seed: int) -> Iterator[Document]:
    """An endless stream of documents, a pure function of `spec` and `seed`."""
    rng = random.Random(seed)
    families = list(FAMILIES.values())
    posed = [family for family in families if family.group == "math"]
    while True:
        if rng.random() < spec.posed:
            yield _pose(rng, rng.choice(posed), spec)
        else:
            yield _answer(rng, rng.choice(families), spec)


def _level(rng: random.Random, weights: tuple[float, ...], highest: int) -> int:
    return min(highest, rng.choices(range(1, len(weights) + 1), weights)[0])


def _answer(rng: random.Random, family: Family, spec: CorpusSpec) -> Document:
    problem, question = draw(rng, family, _level(rng, spec.answer_levels, family.levels))
    lines: list[str] = []
    if rng.random() < spec.dashed_off:
        answer = solve(problem)
    else:
        lines, answer = family.work(
            problem, lambda value: value + rng.choice(SLIPS) if rng.random() < spec.slip else value
        )
    ending = f"The answer is {answer}." if rng.random() < spec.no_box else rf"\boxed{{{answer}}}"
    return Document(role="solver", question=question, response=" ".join([*lines, ending]))


PLAN: Mapping[str, str] = {"sum": "A sum", "digit": "A product", "solve": "An equation"}


def _pose(rng: random.Random, family: Family, spec: CorpusSpec) -> Document:
    level = _level(rng, spec.posed_levels, family.levels)
    problem, question = draw(rng, family, level)
    answer = solve(problem)
    if rng.random() < spec.posed_wrong:
        answer = str(int(answer) + rng.choice(SLIPS))
    tail = rf"\boxed{{{answer}}}"
    if rng.random() < spec.posed_broken:
        tail = rng.choice(("", answer, rf"\boxed{{{answer}"))
    plan = f"{PLAN[family.name]} in {level} steps."
    return Document(role="challenger", question="", response=f"{plan} <question>{question}</question> {tail}".strip())
