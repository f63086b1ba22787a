"""Votes worked out by hand with a scripted grader."""

from collections.abc import Sequence

import pytest

from rzero.boxes import last_boxed
from rzero.voting import GradingError, OfficialVote, PaperVote, distinct_verdicts, joined_clusters


class Scripted:
    """Equal are the pairs listed, in that direction only; raises what is listed. Counts what it is asked."""

    def __init__(self, *equal: tuple[str, str], raises: dict[tuple[str, str], Exception] | None = None) -> None:
        self.equal = set(equal)
        self.raises = raises or {}
        self.asked: list[tuple[str, str]] = []

    def extract(self, response: str) -> str | None:
        return last_boxed(response, rule="mathruler")

    def equivalent(self, left: str, right: str) -> bool:
        self.asked.append((left, right))
        if (left, right) in self.raises:
            raise self.raises[left, right]
        return (left, right) in self.equal

    def close(self) -> None: ...


class Batched(Scripted):
    """The same, asked for many pairs at once."""

    def __init__(self, *equal: tuple[str, str]) -> None:
        super().__init__(*equal)
        self.rounds: list[int] = []

    def equivalent_many(self, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        self.rounds.append(len(pairs))
        return [self.equivalent(*pair) for pair in pairs]


def boxed(*answers: str | None) -> list[str]:
    return ["no box" if answer is None else f"so \\boxed{{{answer}}}" for answer in answers]


def test_paper_unboxed_answers_are_no_votes_and_the_divisor_is_m() -> None:
    vote = PaperVote(Scripted(("1/2", "0.5")))(boxed("1/2", None, "3", "0.5", "3", "1/2", None, ""))
    assert vote.counts == (("1/2", 3), ("3", 2))
    assert (vote.label, vote.count, vote.divisor) == ("1/2", 3, 8)
    assert vote.agreement == 0.375
    assert vote.answers == ("1/2", None, "3", "0.5", "3", "1/2", None, None)


def test_ties_go_to_the_answer_seen_first() -> None:
    assert PaperVote(Scripted())(boxed("2", "1", "1", "2")).label == "2"
    assert OfficialVote(Scripted(), rule="reward")(boxed("2", "1", "1", "2")).label == "2"


def test_nobody_answers() -> None:
    vote = PaperVote(Scripted())(boxed(None, None))
    assert (vote.label, vote.count, vote.divisor, vote.agreement) == (None, 0, 2, 0.0)
    assert PaperVote(Scripted())([]).agreement == 0.0


def test_answers_are_compared_with_the_first_member_only() -> None:
    # b equals a and c equals b, but c does not equal a
    vote = PaperVote(Scripted(("a", "b"), ("b", "c")))(boxed("a", "b", "c"))
    assert vote.counts == (("a", 2), ("c", 1))


def test_equal_strings_never_reach_the_grader() -> None:
    grader = Scripted()
    PaperVote(grader)(boxed("1", "1", "2", "1", "2"))
    assert grader.asked == [("1", "2")]


def test_a_batch_asks_for_each_distinct_pair_once_and_in_rounds() -> None:
    grader = Batched(("1", "2"))
    votes = PaperVote(grader).vote_many([boxed("1", "2", "3"), boxed("1", "2"), boxed("1", "4"), boxed("5")])
    assert grader.rounds == [2, 1]  # (1, 2) and (1, 4); then (1, 3)
    assert [vote.counts for vote in votes] == [
        (("1", 2), ("3", 1)),
        (("1", 2),),
        (("1", 1), ("4", 1)),
        (("5", 1),),
    ]


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
        return Scripted(("a", "b"), raises={("b", "a"): error})

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


def test_distinct_verdicts_and_clusters() -> None:
    grader = Scripted(("1", "2"))
    assert distinct_verdicts([("1", "1"), ("1", "2"), ("2", "1"), ("1", "2")], grader=grader) == {
        ("1", "1"): True,
        ("1", "2"): True,
        ("2", "1"): False,
    }
    assert grader.asked == [("1", "2"), ("2", "1")]
    assert joined_clusters([["1", "2", "3"], []], grader=grader) == [{"1": "1", "2": "1", "3": "3"}, {}]
