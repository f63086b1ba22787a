"""Measurements of an iteration's questions by the oracle: how hard, how well posed, how often the label is right.

These numbers go to the tracker. They reach neither a reward nor the choice of questions; a test replaces the oracle by
noise and compares the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean

import numpy as np

from evaluation.micro.world import FAMILIES, Problem, oracle
from rzero.interfaces import Grader
from rzero.signals import effective_number
from rzero.types import LabelledQuestion

Oracle = Callable[[str], tuple[Problem, str] | None]


class OracleAudit:
    """Shares are in [0, 1]; `level` is the number of steps a question's solution takes (well-posed questions only).

    Of this iteration's questions: those that a curriculum took over from earlier ones were measured then. `families` is
    the effective number of families among them: exp of the entropy of their shares, 0 without any.
    """

    def __init__(self, *, grader: Grader, oracle: Oracle = oracle) -> None:
        self.grader, self.oracle = grader, oracle

    def __call__(self, questions: Sequence[LabelledQuestion]) -> Mapping[str, float]:
        newest = max((question.iteration for question in questions), default=0)
        questions = [question for question in questions if question.iteration == newest]
        posed = [question for question in questions if question.vote is not None]
        answers = {question.index: self.oracle(question.question) for question in posed}
        well_posed = [question for question in posed if answers[question.index]]
        kept = [question for question in posed if question.kept]
        metrics = {
            "audit/well_posed": len(well_posed) / len(questions) if questions else 0.0,
            "audit/level": _mean([_level(answers[question.index]) for question in well_posed]),
            "audit/level_kept": _mean([_level(answers[q.index]) for q in kept if answers[q.index]]),
            "audit/label_accuracy": _mean([self._right(question, answers[question.index]) for question in posed]),
            "audit/label_accuracy_kept": _mean([self._right(question, answers[question.index]) for question in kept]),
            "audit/self_answer_accuracy": _mean(
                [self._equal(question.challenger_answer, answers[question.index]) for question in well_posed]
            ),
            "audit/distinct": len({question.question for question in posed}) / len(posed) if posed else 0.0,
        }
        counts = _by_family(list(answers.values()))
        metrics["audit/families"] = _effective(counts)
        metrics["audit/families_kept"] = _effective(_by_family([answers[question.index] for question in kept]))
        return metrics | {f"audit/family/{name}": n / len(posed) if posed else 0.0 for name, n in counts.items()}

    def _right(self, question: LabelledQuestion, known: tuple[Problem, str] | None) -> float:
        """A label for an ill-posed question is wrong: there is nothing it could be right about."""
        return self._equal(question.vote.label if question.vote else None, known)

    def _equal(self, answer: str | None, known: tuple[Problem, str] | None) -> float:
        return float(answer is not None and known is not None and self.grader.accepts(answer, known[1]))


def _by_family(known: Sequence[tuple[Problem, str] | None]) -> dict[str, int]:
    return {name: sum(found is not None and found[0].family == name for found in known) for name in FAMILIES}


def _effective(counts: Mapping[str, int]) -> float:
    return effective_number(np.array(list(counts.values())) / max(1, sum(counts.values())))


def _level(known: tuple[Problem, str] | None) -> float:
    assert known is not None
    return float(known[0].level)


def _mean(values: Sequence[float]) -> float:
    return fmean(values) if values else 0.0
