"""Second opinions on labels, worked out by hand."""

from __future__ import annotations

from collections import Counter

import pytest

from rzero.curriculum import BandCurriculum, ClosedBand
from rzero.opinions import Anchored, Anchors, Ema, OwnAnswer, support
from rzero.runs.bank import from_row, to_row
from rzero.types import LabelledQuestion, Question, Vote
from tests.rzero.test_rewards import Floats

EVERYTHING = BandCurriculum(band=ClosedBand(low=0.0, high=1.0))


def vote(label: str | None, *others: str | None) -> Vote:
    return Vote(
        label=label,
        count=1 if label else 0,
        divisor=1,
        counts=((label, 1),) if label else (),
        answers=(label,),
        others=tuple(map(vote, others)),
    )


def test_anchors_are_the_earlier_solvers_that_there_are() -> None:
    anchors = Anchors(behind=(1, 2, 5), earliest=1, votes=5)
    found = [anchors.of(voter) for voter in (0, 1, 2, 3, 6)]
    assert found == [[], [], [{1: 1.0}], [{2: 1.0}, {1: 1.0}], [{5: 1.0}, {4: 1.0}, {1: 1.0}]]


def test_an_average_forgets_a_share_with_every_iteration() -> None:
    """E_1 = 3/4 S_0 + 1/4 S_1, E_2 = 3/4 E_1 + 1/4 S_2."""
    ema = Ema(decay=0.75, votes=5)
    assert ema.of(0) == []
    assert ema.of(1) == [{0: 0.75, 1: 0.25}]
    assert ema.of(2) == [{0: 0.5625, 1: 0.1875, 2: 0.25}]
    assert sum(ema.of(9)[0].values()) == pytest.approx(1.0)
    for wrong in ({"decay": 1.0}, {"votes": 0}):
        with pytest.raises(ValueError, match=r"curriculum\.anchors needs decay"):
            Ema(**{"decay": 0.5, "votes": 1, **wrong})  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [{"behind": ()}, {"behind": (0,)}, {"earliest": -1}, {"votes": 0}])
def test_wrong_anchors_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"curriculum\.anchors needs behind >= 1"):
        Anchors(**{"behind": (1,), "earliest": 0, "votes": 5, **wrong})  # type: ignore[arg-type]


def test_support_is_the_share_of_other_voters_with_the_same_label() -> None:
    votes = [vote("7", "7.0", "8", None), vote("7"), vote(None, "7"), None, vote("7", "7", "7")]
    assert support(votes, Floats()) == [pytest.approx(1 / 3), None, None, None, 1.0]


def test_a_label_is_kept_where_enough_earlier_solvers_came_to_it() -> None:
    questions = [Question(text="q", answer="1")] * 4
    votes = [vote("7", "7", "7.0"), vote("7", "7", "8"), vote("7", "8", None), vote("7")]
    for least, dropped in ((1.0, {1, 2}), (0.5, {2}), (0.0, set())):
        labelled = Anchored(Floats(), rule=EVERYTHING, least=least).select(questions, votes, iteration=2)
        assert {position for position, item in enumerate(labelled) if not item.kept} == dropped
        assert Counter(item.drop_reason for item in labelled)["earlier_disagree"] == len(dropped)
    with pytest.raises(ValueError, match="least"):
        Anchored(Floats(), rule=EVERYTHING, least=2)


def test_a_label_is_kept_where_the_challengers_own_answer_is_the_same() -> None:
    questions = [Question(text="q", answer=answer) for answer in ("7.0", "8", "7")]
    labelled = OwnAnswer(Floats(), rule=EVERYTHING).select(questions, [vote("7")] * 3, iteration=1)
    assert [item.drop_reason for item in labelled] == [None, "own_answer_differs", None]


def test_questions_of_earlier_iterations_are_not_judged_again() -> None:
    old = LabelledQuestion(
        iteration=1, index=0, question="q", challenger_answer="1", vote=vote("7", "8"), drop_reason=None
    )

    class Old:
        def select(self, *_: object, iteration: int) -> list[LabelledQuestion]:
            return [old]

    for rule in (Anchored(Floats(), rule=Old(), least=1.0), OwnAnswer(Floats(), rule=Old())):
        assert rule.select([], [], iteration=2) == [old]


def test_the_bank_keeps_what_other_voters_said_and_is_silent_where_nobody_was_asked() -> None:
    for voted in (vote("7", "8", None), vote("7")):
        item = LabelledQuestion(iteration=1, index=0, question="q", challenger_answer="1", vote=voted, drop_reason=None)
        row = to_row(item)
        assert from_row(row) == item
        assert ("others" in row) == bool(voted.others)
