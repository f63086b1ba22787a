"""Controls that do see true answers: how far the same training goes when its labels are right.

R-Zero itself never sees one. Nothing in `rzero` can import this file, and no configuration names it apart from
`label@solver.label=gold_control` and `curriculum/rule=labelled_control` (a test composes them all).
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from evaluation.micro.corpus import draw
from evaluation.micro.world import FAMILIES, oracle, solve
from rzero.types import LabelledQuestion, Question, Vote

NO_ANSWER = "(no answer)"
"""The label of an ill-posed question: no boxed answer equals it, so its group teaches nothing."""


def gold_label(question: LabelledQuestion) -> str:
    """The true answer of a question of the micro world, whatever the vote said."""
    known = oracle(question.question)
    return known[1] if known else NO_ANSWER


class LabelledQuestions:
    """A curriculum that sets aside what was posed: an iteration gets `items` questions of the world with their answers.

    families: which kinds, in turn. levels: steps of a solution, in turn (a family's own highest level bounds them).
    Questions come from the training part of the world, so none is a benchmark item; iterations get different ones.
    """

    def __init__(self, *, families: Sequence[str], levels: Sequence[int], items: int, seed: int) -> None:
        if unknown := set(families) - FAMILIES.keys():
            raise ValueError(
                f"curriculum.rule.families must be of {', '.join(FAMILIES)}, got {', '.join(sorted(unknown))}"
            )
        if items < 1:
            raise ValueError(f"curriculum.rule.items must be at least 1, got {items}")
        self.families, self.levels, self.items, self.seed = tuple(families), tuple(levels), items, seed

    def select(
        self, questions: Sequence[Question | None], votes: Sequence[Vote | None], *, iteration: int
    ) -> list[LabelledQuestion]:
        """Every question is kept; its vote is the true answer, agreed upon by one voice of one."""
        rng = random.Random(f"labelled/{self.seed}/{iteration}")
        kept = []
        for index in range(self.items):
            family = FAMILIES[self.families[index % len(self.families)]]
            level = self.levels[index // len(self.families) % len(self.levels)]
            problem, text = draw(rng, family, min(level, family.levels))
            answer = solve(problem)
            vote = Vote(label=answer, count=1, divisor=1, counts=((answer, 1),), answers=(answer,))
            kept.append(
                LabelledQuestion(
                    iteration=iteration,
                    index=index,
                    question=text,
                    challenger_answer=answer,
                    vote=vote,
                    drop_reason=None,
                )
            )
        return kept
