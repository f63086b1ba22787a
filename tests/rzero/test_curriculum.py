"""Curriculum rules, worked out by hand."""

import re
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rzero.curriculum import (
    DROP_REASONS,
    Balanced,
    BandCurriculum,
    CentredBand,
    ClosedBand,
    Deduplicated,
    OfficialScreen,
    Quantile,
    Replay,
    Stratified,
)
from rzero.interfaces import Curriculum
from rzero.types import LabelledQuestion, Question, Vote
from tests.rzero.kinds import Letters, Past, posed

PAPER = BandCurriculum(band=CentredBand(centre=0.5, half_width=0.25))
OFFICIAL = BandCurriculum(band=ClosedBand(low=0.3, high=0.8), screens=[OfficialScreen()])
EVERYTHING = BandCurriculum(band=ClosedBand(low=0.0, high=1.0))


def vote(count: int, label: str | None = "7", *, m: int = 10) -> Vote:
    return Vote(label=label, count=count, divisor=m, counts=((label or "", count),), answers=("7",) * m)


def reasons(
    rule: Curriculum, questions: Sequence[Question | None], votes: Sequence[Vote | None], *, iteration: int = 1
) -> list[str | None]:
    return [item.drop_reason for item in rule.select(questions, votes, iteration=iteration)]


def distinct(number: int) -> list[Question | None]:
    return [Question(text=f"question about topic{i} and subject{i} with object{i}", answer="1") for i in range(number)]


def test_the_papers_band_over_all_agreements_of_ten_votes() -> None:
    got = reasons(PAPER, distinct(11), [vote(count) for count in range(11)])
    assert got == ["below_band"] * 3 + [None] * 5 + ["above_band"] * 3


def test_the_papers_band_includes_its_edges() -> None:
    assert reasons(PAPER, distinct(2), [vote(1, m=4), vote(3, m=4)]) == [None, None]


def test_the_official_band_includes_its_edges() -> None:
    got = reasons(OFFICIAL, distinct(11), [vote(count) for count in range(11)])
    assert got == ["below_band"] * 3 + [None] * 6 + ["above_band"] * 2
    assert reasons(OFFICIAL, distinct(1), [vote(3, m=9)]) == [None]


def test_reasons_before_the_band_and_the_records() -> None:
    questions = [None, Question(text="", answer="1"), Question(text="q", answer=None), Question(text="q", answer="")]
    questions += [Question(text="q", answer="1")] * 3
    votes = [None, vote(5), vote(5), vote(5), None, vote(0, None), vote(5)]
    labelled = PAPER.select(questions, votes, iteration=4)
    assert [item.drop_reason for item in labelled] == [
        "no_question",
        "no_question",
        "no_answer",
        "no_answer",
        "no_vote",
        "no_majority",
        None,
    ]
    assert labelled[6] == LabelledQuestion(
        iteration=4, index=6, question="q", challenger_answer="1", vote=vote(5), drop_reason=None
    )
    reasons = Counter(item.drop_reason for item in labelled if item.drop_reason)
    assert reasons == {
        "no_question": 2,
        "no_answer": 2,
        "no_vote": 1,
        "no_majority": 1,
    }


def test_the_official_text_rules() -> None:
    texts = ["证明 x", "a sandbox", "fine", "fine", "fine", "证明 box"]
    questions = [Question(text=text, answer="1") for text in texts]
    votes = [vote(5), vote(5), vote(5, "5\\text{ cm}"), vote(5, "None"), vote(5), vote(5)]
    assert reasons(OFFICIAL, questions, votes) == [
        "asks_for_proof",
        "contains_box",
        "label_contains_text",
        "label_is_none",
        None,
        "asks_for_proof",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"low": 0.8, "high": 0.3}, "curriculum.rule.band is upside down: low 0.8 is above high 0.3; swap the two"),
        ({"low": -0.1, "high": 0.3}, "curriculum.rule.band.low must lie in [0, 1], got -0.1"),
        ({"low": 0.3, "high": 80}, "curriculum.rule.band.high must lie in [0, 1], got 80"),
    ],
)
def test_a_wrong_closed_band_is_refused(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        ClosedBand(**arguments)


@pytest.mark.parametrize("arguments", [{"centre": 1.5, "half_width": 0.1}, {"centre": 0.5, "half_width": -0.1}])
def test_a_wrong_centred_band_is_refused(arguments: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\], got (1\.5|-0\.1); the paper uses 0\.(5|25)"):
        CentredBand(**arguments)


def test_quantile_keeps_the_middle_ranks() -> None:
    rule = Quantile(rule=EVERYTHING, low=0.25, high=0.75)
    counts = [9, 1, 5, 5, 2, 8, 5, 0]  # ranks: 0 1 2 | 5 5 5 8 9; the first two and the last two go
    got = reasons(rule, distinct(8), [vote(count) for count in counts])
    assert got == ["above_quantile", "below_quantile", None, None, None, "above_quantile", None, "below_quantile"]
    with pytest.raises(ValueError, match=r"low 0\.7 and high 0\.2"):
        Quantile(rule=EVERYTHING, low=0.7, high=0.2)


def test_stratified_limits_the_frequent_agreements() -> None:
    rule = Stratified(rule=PAPER, strata=10, ratio=2.0)
    got = reasons(rule, distinct(8), [vote(count) for count in (5, 5, 5, 7, 5, 6, 6, 10)])
    # inside the band: four 5s, two 6s, one 7; the rarest has 1, so 2 of each stay
    assert got == [None, None, "stratum_full", None, "stratum_full", None, None, "above_band"]
    assert reasons(rule, [None], [None]) == ["no_question"]


def test_deduplicated_keeps_the_first_of_each_cluster() -> None:
    texts = [
        "What is the sum of the first 10 positive integers?",
        "WHAT is  the sum of the\u200b first １0 positive integers? ",
        "What is 1+1?",
        "What is 1-1?",
        "What is the sum of the first 11 positive integers?",
        "Something else",
    ]
    questions = [Question(text=text, answer="1") for text in texts]
    rule = Deduplicated(rule=PAPER, threshold=0.5)
    assert reasons(rule, questions, [vote(5)] * 6) == [None, "duplicate", None, None, "duplicate", None]
    # a question that the band dropped does not stand in the way of its copy
    votes = [vote(10), vote(5), vote(5), vote(5), vote(5), vote(5)]
    assert reasons(rule, questions, votes)[:2] == ["above_band", None]
    strict = Deduplicated(rule=PAPER, threshold=0.001)
    assert reasons(strict, questions, [vote(5)] * 6) == [None, "duplicate", None, None, None, None]


class Bank:
    """Two earlier iterations of four candidates, the first of each dropped."""

    def put(self, iteration: int, questions: Sequence[LabelledQuestion]) -> None:
        raise NotImplementedError

    def get(self, iteration: int) -> list[LabelledQuestion]:
        assert 1 <= iteration <= 2
        return PAPER.select(distinct(4), [vote(10), vote(5), vote(6), vote(7)], iteration=iteration)


def test_replay_appends_kept_questions_of_earlier_iterations() -> None:
    rule = Replay(rule=PAPER, bank=Bank(), share=0.5, seed=0)
    labelled = rule.select(distinct(9), [vote(5)] * 8 + [vote(10)], iteration=3)
    assert [item.iteration for item in labelled[:9]] == [3] * 9
    replayed = labelled[9:]
    assert len(replayed) == 4  # half of the 8 new ones
    assert all(item.kept and item.iteration in (1, 2) for item in replayed)
    assert replayed == rule.select(distinct(9), [vote(5)] * 8 + [vote(10)], iteration=3)[9:]
    assert len({(item.iteration, item.index) for item in replayed}) == 4
    assert rule.select(distinct(2), [vote(5)] * 2, iteration=1)[2:] == []


@given(st.lists(st.tuples(st.integers(0, 10), st.sampled_from("abc")), max_size=20))
def test_every_candidate_comes_back_in_order_with_a_known_reason(drawn: list[tuple[int, str]]) -> None:
    questions = [Question(text=text, answer="1") for _, text in drawn]
    votes = [vote(count) for count, _ in drawn]
    for rule in (
        PAPER,
        OFFICIAL,
        EVERYTHING,
        Quantile(rule=PAPER, low=0.2, high=0.9),
        Stratified(rule=PAPER, strata=10, ratio=1.5),
        Deduplicated(rule=Stratified(rule=EVERYTHING, strata=4, ratio=1.0), threshold=0.5),
    ):
        labelled = rule.select(questions, votes, iteration=1)
        assert [(item.index, item.question) for item in labelled] == [
            (index, text) for index, (_, text) in enumerate(drawn)
        ]
        assert all(item.drop_reason is None or item.drop_reason in DROP_REASONS for item in labelled)


def test_balanced_keeps_no_more_of_a_kind_than_its_fair_share_allows() -> None:
    texts = ["a1", "a2", "b1", "a3", "a4", "a5"]  # six of two kinds: 3 is fair, 4.5 is half more
    rule = Balanced(
        Past([posed("a"), posed("b"), posed("c")]), Letters(), rule=EVERYTHING, cells=3, ratio=1.0, seed_of_cells=0
    )
    questions = [Question(text=text, answer="1") for text in texts]
    assert reasons(rule, questions, [vote(5)] * 6, iteration=2) == [None, None, None, None, "cell_full", "cell_full"]
    looser = Balanced(Past([posed("a"), posed("b")]), Letters(), rule=EVERYTHING, cells=3, ratio=1.5, seed_of_cells=0)
    assert reasons(looser, questions, [vote(5)] * 6, iteration=2) == [None] * 6  # up to 5 of a kind
    assert reasons(rule, questions[:2], [vote(5)] * 2) == [None, None]  # the first iteration: its own kinds
    assert reasons(rule, [None], [None], iteration=2) == ["no_question"]
    with pytest.raises(ValueError, match="cells >= 2 and ratio >= 1"):
        Balanced(Past(), Letters(), rule=EVERYTHING, cells=3, ratio=0.5, seed_of_cells=0)
