"""The oracle's measurements of an iteration's questions, by hand."""

from __future__ import annotations

import math

import pytest

from evaluation.micro.audit import OracleAudit
from rzero.grading.exact_grader import ExactGrader
from rzero.types import LabelledQuestion, Vote


def question(index: int, text: str, label: str, *, iteration: int = 2, kept: bool = True) -> LabelledQuestion:
    vote = Vote(label=label, count=1, divisor=1, counts=((label, 1),), answers=(label,))
    reason = None if kept else "below_band"
    return LabelledQuestion(
        iteration=iteration, index=index, question=text, challenger_answer="3", vote=vote, drop_reason=reason
    )


def test_labels_levels_and_families_of_the_newest_questions() -> None:
    asked = [
        question(0, "Compute 1 + 2.", "3"),
        question(1, "Compute 1 + 2 + 4.", "9"),
        question(2, "Find the last digit of 3 * 4.", "2", kept=False),
        question(3, "What is love?", "3"),
        question(0, "Solve x + 10 - 4 = 20.", "0", iteration=1),  # replayed: it has the first one's index, too
    ]
    found = OracleAudit(grader=ExactGrader(max_chars=100))(asked)
    assert found["audit/well_posed"] == pytest.approx(3 / 4)
    assert found["audit/label_accuracy"] == pytest.approx(2 / 4)
    assert found["audit/label_accuracy_kept"] == pytest.approx(1 / 3)
    assert found["audit/level"] == pytest.approx(4 / 3)
    assert found["audit/level_kept"] == pytest.approx(3 / 2)
    assert found["audit/self_answer_accuracy"] == pytest.approx(1 / 3)
    assert found["audit/family/sum"] == pytest.approx(2 / 4)
    assert found["audit/families"] == pytest.approx(math.exp(-(2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 3))))
    assert found["audit/families_kept"] == pytest.approx(1)


def test_nothing_posed_is_nothing_measured() -> None:
    found = OracleAudit(grader=ExactGrader(max_chars=100))([])
    assert set(found.values()) == {0.0}
