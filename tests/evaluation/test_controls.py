"""The two controls that see true answers do, and take nothing from the benchmarks."""

from __future__ import annotations

import pytest

from evaluation.micro.controls import NO_ANSWER, LabelledQuestions, gold_label
from evaluation.micro.world import bucket, oracle
from rzero.types import LabelledQuestion, Vote

HELD_OUT_BUCKETS = {0, 1}


def question(text: str, label: str) -> LabelledQuestion:
    vote = Vote(label=label, count=1, divisor=1, counts=((label, 1),), answers=(label,))
    return LabelledQuestion(iteration=1, index=0, question=text, challenger_answer=None, vote=vote, drop_reason=None)


def test_the_gold_label_is_the_true_answer_whatever_the_vote_said() -> None:
    assert gold_label(question("Compute 20 + 3 - 1.", label="99")) == "22"
    assert gold_label(question("What is love?", label="42")) == NO_ANSWER


def test_labelled_questions_are_right_new_in_every_round_and_no_benchmark_items() -> None:
    rule = LabelledQuestions(families=["sum", "digit"], levels=[2, 3], items=8, seed=0)
    first, second = (rule.select([None], [None], iteration=i) for i in (1, 2))
    assert first == rule.select([None], [None], iteration=1)
    assert {q.question for q in first}.isdisjoint(q.question for q in second)
    for item in first:
        known = oracle(item.question)
        assert known is not None
        assert item.kept
        assert item.vote is not None
        assert item.vote.label == known[1]
        assert known[0].level in (2, 3)
        assert bucket(item.question) not in HELD_OUT_BUCKETS
    assert [oracle(q.question)[0].family for q in first[:4]] == ["sum", "digit", "sum", "digit"]  # type: ignore[index]


def test_unknown_families_are_named() -> None:
    with pytest.raises(ValueError, match=r"sum, digit, solve.*got algebra"):
        LabelledQuestions(families=["algebra"], levels=[2], items=1, seed=0)
