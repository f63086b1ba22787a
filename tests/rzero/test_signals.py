"""Signals of collapse without an oracle, worked out by hand on three kinds of questions at right angles."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from rzero.signals import Signals, effective_number, vendi_score
from rzero.types import LabelledQuestion, Vote
from tests.rzero.kinds import Letters, Past, posed
from tests.rzero.test_rewards import Floats


def vote(label: str | None, *answers: str | None) -> Vote:
    given = answers or (label,)
    count = sum(answer == label for answer in given) if label else 0
    return Vote(label=label, count=count, divisor=len(given), counts=(), answers=given)


def signals(*past: list[LabelledQuestion]) -> Signals:
    return Signals(Floats(), Past(*past), Letters(), asked=2, votes=3, cells=3, seed_of_cells=0, similar_above=0.9)


def test_the_effective_number_of_shares_and_of_vectors() -> None:
    assert effective_number(np.array([0.25, 0.25, 0.25, 0.25])) == pytest.approx(4)
    assert effective_number(np.array([1.0, 0.0])) == 1
    assert effective_number(np.zeros(3)) == 0
    assert vendi_score(Letters().embed(["a", "b", "c"])) == pytest.approx(3)
    assert vendi_score(Letters().embed(["a", "a", "a"])) == pytest.approx(1)
    half = math.exp(-(2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 3)))
    assert vendi_score(Letters().embed(["a", "a", "b"])) == pytest.approx(half)


def test_voters_are_one_older_than_the_voter_and_the_first_that_was_trained() -> None:
    asked = signals()
    assert [asked.voters(iteration) for iteration in (1, 2, 3, 4)] == [
        {}, {"previous": 0}, {"previous": 1, "first": 1}, {"previous": 2, "first": 1},
    ]  # fmt: skip


def test_what_is_seen_of_an_iteration() -> None:
    first = [posed("a1"), posed("b1"), posed("c1", kept=False)]
    second = [
        replace(posed("a2", iteration=2, vote=vote("1", "1", "1", "2", "3")), index=0),
        replace(posed("a33", iteration=2, vote=vote("2", "2", "2", "2", "3")), index=1),
        replace(posed("c4", iteration=2, kept=False, vote=vote("9")), index=2),
        posed("b1", iteration=1, vote=vote("5")),  # replayed: not of this iteration
    ]
    looked = signals(first)
    assert looked.sample(second, iteration=2) == second[:2]
    found = looked(second, {"previous": [vote("1.0", "1", "1", "4"), vote(None, None, None)]}, iteration=2)
    assert found == pytest.approx(
        {
            "signals/agreement": (0.5 + 0.75) / 2,
            "signals/own_answer": 0.5,  # the Challenger says 1 both times
            "signals/question_length": 2.5,
            "signals/cells": 1,
            "signals/vendi": 1,
            "signals/overlap": 1,  # both are of a kind that was posed before
            "signals/previous_same": 0.5,
            "signals/previous_answers": (2 / 3 + 0) / 2,
            "signals/previous_agreement": 0.0,  # its label is written 1.0, so none of its answers is counted here
        }
    )


def test_the_first_iteration_has_nothing_to_overlap_with() -> None:
    found = signals()([posed("a", vote=vote("1")), posed("b", vote=vote("1"))], {}, iteration=1)
    assert found["signals/cells"] == pytest.approx(2)
    assert "signals/overlap" not in found


def test_nothing_is_seen_where_nothing_was_kept() -> None:
    assert signals()([posed("a", kept=False)], {}, iteration=1) == {}


@pytest.mark.parametrize("wrong", [{"asked": 0}, {"votes": 0}, {"cells": 1}])
def test_wrong_settings_are_refused(wrong: dict[str, int]) -> None:
    usual = {"asked": 2, "votes": 3, "cells": 3, "seed_of_cells": 0, "similar_above": 0.9}
    with pytest.raises(ValueError, match="signals need asked >= 1"):
        Signals(Floats(), Past(), Letters(), **{**usual, **wrong})  # type: ignore[arg-type]
