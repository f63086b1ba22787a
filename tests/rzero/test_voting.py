"""Votes worked out by hand with a scripted grader."""

from collections.abc import Sequence
from itertools import permutations

import pytest

from rzero.boxes import last_boxed
from rzero.voting import GradingError, OfficialVote, PaperVote, Verdict


class Scripted:
    """Accepted are the pairs listed, in that direction only; no verdict on what is listed. Notes what it is asked."""

    def __init__(self, *equal: tuple[str, str], fails: dict[tuple[str, str], Exception] | None = None) -> None:
        self.equal = set(equal)
        self.fails = fails or {}
        self.asked: list[tuple[str, str]] = []

    def extract(self, response: str) -> str | None:
        return last_boxed(response, rule="mathruler")

    def accepts_many(self, pairs: Sequence[tuple[str, str]]) -> list[Verdict]:
        self.asked += pairs
        return [self.fails.get(pair, pair in self.equal) for pair in pairs]


class Classed:
    """The same are answers with equal first characters. Notes the ballots it is asked about."""

    def __init__(self) -> None:
        self.batches: list[list[Sequence[str]]] = []

    def extract(self, response: str) -> str | None:
        return last_boxed(response, rule="mathruler")

    def accepts(self, prediction: str, reference: str) -> bool:
        return prediction[0] == reference[0]

    same = accepts

    def accepts_many(self, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        return [self.accepts(*pair) for pair in pairs]

    same_many = accepts_many

    def classes(self, batch: Sequence[Sequence[str]]) -> list[list[int]]:
        self.batches.append(list(batch))
        rows = [[answer[0] for answer in answers] for answers in batch]
        return [[row.index(first) for first in row] for row in rows]

    def close(self) -> None: ...


def boxed(*answers: str | None) -> list[str]:
    return ["no box" if answer is None else f"so \\boxed{{{answer}}}" for answer in answers]


def test_paper_unboxed_answers_are_no_votes_and_the_divisor_is_m() -> None:
    vote = PaperVote(Classed())(boxed("1/2", None, "3", "1.", "3", "1/2", None, ""))
    assert vote.counts == (("1/2", 3), ("3", 2))
    assert (vote.label, vote.count, vote.divisor) == ("1/2", 3, 8)
    assert vote.agreement == 0.375
    assert vote.answers == ("1/2", None, "3", "1.", "3", "1/2", None, None)


def test_ties_go_to_the_answer_seen_first() -> None:
    assert PaperVote(Classed())(boxed("2", "1", "1", "2")).label == "2"
    assert OfficialVote(Scripted(), rule="reward")(boxed("2", "1", "1", "2")).label == "2"


def test_nobody_answers() -> None:
    vote = PaperVote(Classed())(boxed(None, None))
    assert (vote.label, vote.count, vote.divisor, vote.agreement) == (None, 0, 2, 0.0)
    assert PaperVote(Classed())([]).agreement == 0.0


def test_the_label_is_the_most_frequent_spelling_then_the_shortest_whatever_the_order() -> None:
    for order in permutations(("1.0", "1.0", "1", "2")):
        assert PaperVote(Classed())(boxed(*order)).label == "1.0"
    for order in permutations(("1.0", "1", "1.", "2")):
        assert PaperVote(Classed())(boxed(*order)).label == "1"


def test_a_batch_is_one_question_to_the_grader() -> None:
    grader = Classed()
    votes = PaperVote(grader).vote_many([boxed("1", "1.0", "3"), boxed(None), boxed("5")])
    assert grader.batches == [[["1", "1.0", "3"], [], ["5"]]]
    assert [vote.counts for vote in votes] == [(("1", 2), ("3", 1)), (), (("5", 1),)]


def test_official_answers_are_compared_with_the_first_member_only() -> None:
    # b equals a and c equals b, but c does not equal a
    vote = OfficialVote(Scripted(("a", "b"), ("b", "c")), rule="reward")(boxed("a", "b", "c"))
    assert vote.counts == (("a", 2), ("c", 1))


def test_official_equal_strings_never_reach_the_grader() -> None:
    grader = Scripted()
    OfficialVote(grader, rule="reward").vote_many([boxed("1", "1", "2"), boxed("2", "1")])
    assert grader.asked == [("1", "2"), ("2", "1")]


def test_official_missing_box_votes_none_and_no_merges() -> None:
    responses = boxed(None, "no solution", "piano 5, no pedal", "", None, "7")
    reward = OfficialVote(Scripted(), rule="reward")(responses)
    assert reward.counts == (("None", 2), ("no solution", 2), ("7", 1))
    assert (reward.label, reward.divisor) == ("None", 6)
    label = OfficialVote(Scripted(), rule="label")(responses)
    assert (label.label, label.count, label.divisor) == ("None", 2, 5)
    earlier = OfficialVote(Scripted(), rule="reward_2025_08")(responses)
    assert earlier.counts == (("None", 2), ("no solution", 2), ("", 1), ("7", 1))


def test_official_asks_both_directions() -> None:
    for rule in ("reward", "label"):
        assert OfficialVote(Scripted(("a", "b")), rule=rule)(boxed("a", "b")).counts == (("a", 2),)
        assert OfficialVote(Scripted(("b", "a")), rule=rule)(boxed("a", "b")).counts == (("a", 2),)


def test_official_timeouts_and_failures() -> None:
    def grader(error: Exception) -> Scripted:
        return Scripted(("a", "b"), fails={("b", "a"): error})

    # the first direction (newer, older) times out: the reward rule tries the other one, the label rule does not
    assert OfficialVote(grader(TimeoutError()), rule="reward")(boxed("a", "b")).counts == (("a", 2),)
    assert OfficialVote(grader(TimeoutError()), rule="label")(boxed("a", "b")).counts == (("a", 1), ("b", 1))
    # it fails: the reward rule skips the pair, the label rule loses the question
    assert OfficialVote(grader(GradingError()), rule="reward")(boxed("a", "b")).counts == (("a", 1), ("b", 1))
    lost = OfficialVote(grader(GradingError()), rule="label")(boxed("a", "b"))
    assert (lost.label, lost.counts, lost.agreement) == (None, (), 0.0)


def test_an_unknown_rule_is_refused() -> None:
    with pytest.raises(ValueError, match=r"vote\.rule must be one of reward, label.*'rewards'"):
        OfficialVote(Scripted(), rule="rewards")
