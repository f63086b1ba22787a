"""The acceptance test: bets worked out by hand, questions held out by lot, and a loop that goes on from what stands."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from rzero.acceptance import Acceptance, Verdict, wealth
from rzero.runs.directory import RunDirectory
from rzero.selfplay import SelfPlay
from rzero.tracking import read_metrics
from rzero.types import LabelledQuestion
from tests.rzero.test_opinions import vote
from tests.rzero.test_rewards import Floats
from tests.rzero.tiny_run import execute, said, tiny_run

NUMBERS: dict[str, Any] = {"share": 0.5, "most": 10, "answers": 3, "alpha": 0.05, "largest_bet": 0.5}


def test_the_bet_by_hand() -> None:
    """Nothing is staked before anything is known. After -1/2: m = -1/4, v = (1 + 1/16) / 2, bet = 0.25 / (0.53125 +
    0.0625) = 8/19. After 1/2 the mean is 0 again, and nothing is staked on what follows.
    """
    found = list(wealth([-0.5, 0.5, -1.0], largest_bet=0.5))
    assert found == pytest.approx([1.0, 1 - 8 / 19 / 2, 1 - 8 / 19 / 2])


def test_the_bet_is_limited_and_pays_nothing_to_a_solver_that_is_better() -> None:
    assert list(wealth([-1.0] * 4, largest_bet=0.5)) == [1.0, 1.5, 2.25, 3.375]
    assert list(wealth([1.0, 0.5, 1.0], largest_bet=0.5)) == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(("name", "value"), [("share", 1.0), ("alpha", 0.0), ("largest_bet", 1.0), ("most", 0)])
def test_wrong_numbers_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=r"solver\.acceptance needs"):
        Acceptance(Floats(), **{**NUMBERS, name: value})


def question(index: int, text: str, *, iteration: int = 2) -> LabelledQuestion:
    return LabelledQuestion(
        iteration=iteration, index=index, question=text, challenger_answer="1", vote=vote("7"), drop_reason=None
    )


def test_new_questions_are_held_out_with_all_their_copies_and_old_ones_never() -> None:
    kept = [question(i, text) for i, text in enumerate("abcdab")] + [question(9, "old", iteration=1)]
    train, held_out = Acceptance(Floats(), **NUMBERS).split(kept, iteration=2)
    texts = {item.question for item in held_out}
    assert len(held_out) == len(texts) == 2
    assert texts < set("abcd")
    assert train == [item for item in kept if item.question not in texts]
    assert (train, held_out) == Acceptance(Floats(), **NUMBERS).split(kept, iteration=2)
    assert len(Acceptance(Floats(), **{**NUMBERS, "most": 1}).split(kept, iteration=2)[1]) == 1
    assert Acceptance(Floats(), **NUMBERS).split(kept[:1], iteration=2) == (kept[:1], [])


def test_a_verdict_by_hand() -> None:
    """A Solver that answers none of nine questions which the old one answers: 1.5^8 = 25.6 is above 1 / 0.05."""
    test = Acceptance(Floats(), **NUMBERS)
    right, wrong = [r"\boxed{7}", r"\boxed{7.0}", r"\boxed{7}"], ["", r"\boxed{8}", "7"]
    found = [test.judge(["7"] * n, new=[wrong] * n, old=[right] * n) for n in (8, 9)]
    assert [verdict.accepted for verdict in found] == [True, False]
    assert found[1].evidence == pytest.approx(1.5**8)
    assert (found[1].new, found[1].old) == (0.0, 1.0)
    assert test.judge(["7"] * 9, new=[right] * 9, old=[wrong] * 9).evidence == 1.0
    assert test.judge(["7"], new=[[r"\boxed{7}", "", ""]], old=[right]).new == pytest.approx(1 / 3)


class Fixed(Acceptance):
    """A test whose verdicts are known beforehand, one a round."""

    def __init__(self, *accepted: bool) -> None:
        super().__init__(Floats(), **NUMBERS)
        self.verdicts = accepted
        self.asked: list[int] = []

    def judge(self, labels: Any, *, new: Any, old: Any) -> Verdict:
        self.asked.append(len(labels))
        assert [len(group) for group in new] == [len(group) for group in old] == [self.answers] * len(labels)
        accepted = self.verdicts[len(self.asked) - 1]
        return Verdict(questions=len(labels), new=0.5, old=0.5, evidence=1.0, accepted=accepted)


def two_rounds(directory: Path, base: Path, test: Acceptance) -> SelfPlay:
    run = tiny_run(directory, base, iterations=2)
    run.solver = dataclasses.replace(run.solver, acceptance=test)
    return run


@pytest.mark.usefixtures("quiet_lightning")
def test_a_solver_that_is_given_up_leaves_the_one_before_and_a_killed_run_ends_the_same(
    tmp_path: Path, base: Path
) -> None:
    test = Fixed(False, True)
    run = two_rounds(tmp_path / "run", base, test)
    whole = execute(run)
    there = RunDirectory(tmp_path / "run")
    assert not there.weights("solver", 1).exists()
    assert (run.weights.name("solver", 1), run.weights.name("solver", 2)) == ("base", "solver_2")
    assert any("given up for the weights before this phase: 0.500 of its answers" in line for line in said(run))
    rows = [row for row in read_metrics(there.metrics) if "acceptance/new" in row]
    assert [row["acceptance/accepted"] for row in rows] == [0.0, 1.0]
    assert [row["extra/responses/acceptance"] for row in rows] == [2 * asked * 3 for asked in test.asked]
    assert all(row["extra/timing_s/acceptance"] > 0 for row in rows)

    class Killed(Fixed):
        def judge(self, labels: Any, *, new: Any, old: Any) -> Verdict:
            raise OSError("the power went out")

    with pytest.raises(OSError, match="power"):
        execute(two_rounds(tmp_path / "killed", base, Killed()))
    assert execute(two_rounds(tmp_path / "killed", base, Fixed(False, True))) == whole
