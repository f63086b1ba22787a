"""Rewards of both roles, worked out by hand."""

from collections.abc import Sequence

import numpy as np
import pytest

from rzero.boxes import last_boxed
from rzero.repetition import AnyLanguageRepetition
from rzero.rewards import (
    Coverage,
    FormatChallengerReward,
    FormatSolverReward,
    Governor,
    InvertedU,
    MemoryPenalty,
    NoveltySolverReward,
    OfficialChallengerReward,
    OfficialSolverReward,
    PaperChallengerReward,
    PaperSolverReward,
    Pre202512ChallengerReward,
    RandomChallengerReward,
    RandomSolverReward,
    SelfAnswerBonus,
    SemanticMemory,
    SoftVoteSolverReward,
    ValidityGate,
)
from rzero.rewards.official import close_up, thinks_then_boxes
from rzero.types import LabelledQuestion, Question, RewardBreakdown, Vote
from tests.rzero.kinds import Letters, Past, posed

LONG = "how many of the first hundred integers are prime and even at once"
OTHER = "a quite different text about triangles with nothing shared"
PAPER = PaperChallengerReward(repetition_weight=1.0, repetition_threshold=0.5)


class Floats:
    """Answers are equal as numbers; anything else as strings."""

    def extract(self, response: str) -> str | None:
        return last_boxed(response, rule="mathruler")

    def accepts(self, prediction: str, reference: str) -> bool:
        return self.same(prediction, reference)

    def accepts_many(self, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        return self.same_many(pairs)

    def same(self, left: str, right: str) -> bool:
        return self._value(left) == self._value(right)

    def same_many(self, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        return [self.same(*pair) for pair in pairs]

    def classes(self, batch: Sequence[Sequence[str]]) -> list[list[int]]:
        rows = [[self._value(answer) for answer in answers] for answers in batch]
        return [[row.index(value) for value in row] for row in rows]

    def _value(self, text: str) -> float | str:
        try:
            return float(text)
        except ValueError:
            return text

    def close(self) -> None: ...


def vote(count: int, label: str | None = "7", *, m: int = 10, answered: int | None = None) -> Vote:
    answered = m if answered is None else answered
    answers = ("7",) * answered + (None,) * (m - answered)
    return Vote(label=label, count=count, divisor=m, counts=((label or "", count),), answers=answers)


def question(text: str = LONG, answer: str | None = "7") -> Question:
    return Question(text=text, answer=answer)


def totals(breakdowns: Sequence[RewardBreakdown]) -> list[float]:
    return [breakdown.total for breakdown in breakdowns]


def test_paper_challenger() -> None:
    questions = [question(), question(), question(OTHER), question(OTHER + " but without a box", None), None]
    paid = PAPER(questions, [vote(5), vote(9), vote(7), vote(5), None])
    # uncertainty 1, 0.2, 0.6; shares 2/5, 2/5, 2/5 (the malformed text is similar), 2/5, 1/5
    assert totals(paid) == pytest.approx([0.6, 0.0, 0.2, 0.0, 0.0])
    assert dict(paid[0].parts) == {"uncertainty": 1.0, "repetition": 0.4, "format": 1.0}
    assert dict(paid[4].parts) == {"uncertainty": 0.0, "repetition": 0.2, "format": 0.0}


def test_the_weight_of_the_repetition_penalty() -> None:
    free = PaperChallengerReward(repetition_weight=0.0, repetition_threshold=0.5)
    assert totals(free([question(), question()], [vote(5), vote(4)])) == pytest.approx([1.0, 0.8])
    assert totals(PAPER([question()], [vote(5)])) == [0.0]  # a batch of one is all repetition


def test_which_repetition_is_charged_is_a_choice() -> None:
    short, other = question("2+2?"), question("Name a prime.")
    batch, votes = [short, short, short, other], [vote(5)] * 4
    assert totals(PAPER(batch, votes)) == [0.75] * 4, "as published a short copy costs what anything costs"
    any_language = PaperChallengerReward(
        repetition_weight=1.0, repetition_threshold=0.5, repetition=AnyLanguageRepetition(words=8)
    )
    assert totals(any_language(batch, votes)) == [0.25] * 3 + [0.75]


def test_official_challenger() -> None:
    reward = OfficialChallengerReward(repetition_weight=1.0, repetition_threshold=0.5)
    paid = reward(
        [question(), question(OTHER), None, question("the vote on this one failed")], [vote(6), vote(10)] + [None] * 2
    )
    assert totals(paid) == pytest.approx([0.4 - 0.25, 0.0 - 0.25, -1.25, -1.25])
    assert [breakdown.parts["format"] for breakdown in paid] == [1.0, 1.0, 0.0, 1.0]


@pytest.mark.parametrize(
    ("compared", "expected"), [("last_character", [0.5 - 0.2, 0.0 - 0.2]), ("box", [0.0 - 0.2, 0.5 - 0.2])]
)
def test_pre_2025_12_challenger(compared: str, expected: list[float]) -> None:
    reward = Pre202512ChallengerReward(
        repetition_weight=1.0, repetition_threshold=0.5, agreement_above=0.1, compared=compared
    )
    texts = [LONG, OTHER, "third text", "fourth text entirely", "and something else"]
    questions = [question(texts[0], "42"), question(texts[1], "42"), question(texts[2], "2"), None]
    questions.append(question(texts[4], "2"))
    paid = totals(reward(questions, [vote(5, "2"), vote(5, "42"), vote(1, "2"), None, None]))
    assert paid[:2] == pytest.approx(expected)
    assert paid[2:] == pytest.approx([-0.2, -1.2, -1.2])  # agreement 0.1 is not above 0.1


def test_pre_2025_12_refuses_an_unknown_comparison() -> None:
    with pytest.raises(ValueError, match="last_character, box; got 'both'"):
        Pre202512ChallengerReward(repetition_weight=1.0, repetition_threshold=0.5, agreement_above=0.1, compared="both")


def test_inverted_u() -> None:
    reward = InvertedU(centre=0.6, half_width=0.3, repetition_weight=0.0, repetition_threshold=0.5)
    questions = [question()] * 4 + [None]
    paid = totals(reward(questions, [vote(6), vote(9), vote(2), vote(5), None]))
    assert paid == pytest.approx([1.0, 0.0, 0.0, 2 / 3, 0.0])
    as_paper = InvertedU(centre=0.5, half_width=0.5, repetition_weight=1.0, repetition_threshold=0.5)
    batch = [question(), question(OTHER), None]
    assert totals(as_paper(batch, [vote(3), vote(8), None])) == pytest.approx(
        totals(PAPER(batch, [vote(3), vote(8), None]))
    )
    with pytest.raises(ValueError, match="half_width must be positive, got 0"):
        InvertedU(centre=0.5, half_width=0, repetition_weight=1.0, repetition_threshold=0.5)


@pytest.mark.parametrize(
    ("posed", "voted", "fault"),
    [
        (question(), vote(5), None),
        (question("What is x?"), vote(5), "too_short"),
        (question(LONG + " Prove that it is."), vote(5), "asks_for_proof"),
        (question(answer="1" * 101), vote(5), "long_answer"),
        (question(LONG + " Answer: 7"), vote(5), "states_its_answer"),
        (question(LONG + " Answer: 8"), vote(5), None),
        (question(), vote(4, answered=4), "unanswered"),
        (question(), vote(4, answered=5), None),
        (question(answer=None), None, "no_question"),
        (None, None, "no_question"),
    ],
)
def test_validity_gate(posed: Question | None, voted: Vote | None, fault: str | None) -> None:
    gate = ValidityGate(reward=FormatChallengerReward(), least_characters=20, longest_answer=100, least_answered=0.5)
    assert gate.fault(posed, voted) == fault
    paid = gate([posed], [voted])[0]
    assert paid.total == paid.parts["valid"] == float(fault is None)


class Bank:
    """What earlier iterations posed."""

    def __init__(self, **texts: list[str]) -> None:
        self.texts = {int(name[1:]): value for name, value in texts.items()}

    def put(self, iteration: int, questions: Sequence[LabelledQuestion]) -> None:
        raise NotImplementedError

    def get(self, iteration: int) -> list[LabelledQuestion]:
        return [
            LabelledQuestion(
                iteration=iteration, index=i, question=text, challenger_answer="1", vote=None, drop_reason="no_vote"
            )
            for i, text in enumerate(self.texts[iteration])  # KeyError: nothing stored
        ]


def test_memory_penalty() -> None:
    reward = MemoryPenalty(
        Bank(i1=[OTHER], i2=["", LONG]), reward=FormatChallengerReward(), memory_weight=0.75, similar_above=0.5
    )
    paid = reward([question(), question("completely new words here, my friend"), None], [vote(5), vote(5), None])
    assert totals(paid) == pytest.approx([0.25, 1.0, 0.0])
    assert [breakdown.parts["memory"] for breakdown in paid] == pytest.approx([0.75, 0.0, 0.0])
    short = MemoryPenalty(
        Bank(i1=["几个苹果？"]), reward=FormatChallengerReward(), memory_weight=0.75, similar_above=0.5
    )
    assert totals(short([question("几个苹果？"), question("几只青蛙？")], [vote(5), vote(5)])) == [0.25, 1.0]
    heavy = MemoryPenalty(Bank(i1=[LONG]), reward=FormatChallengerReward(), memory_weight=5.0, similar_above=0.5)
    assert totals(heavy([question(), question(answer=None)], [None, None])) == [0.0, 0.0]


def test_self_answer_bonus() -> None:
    reward = SelfAnswerBonus(
        Floats(), reward=PaperChallengerReward(repetition_weight=0, repetition_threshold=0.5), bonus=0.5
    )
    questions = [question(answer="7.0"), question(answer="8"), question(answer="7"), question(answer=None), None]
    paid = reward(questions, [vote(5), vote(5), vote(10), vote(5), None])
    assert totals(paid) == pytest.approx([1.5, 1.0, 0.0, 0.0, 0.0])  # nothing is added to a reward of 0


def test_paper_solver() -> None:
    responses = ["so \\boxed{7.0}", "so \\boxed{8}", "seven", "\\boxed{}", "\\boxed{7}"]
    [paid] = PaperSolverReward(Floats())([responses], ["7"])
    assert totals(paid) == [1.0, 0.0, 0.0, 0.0, 1.0]
    assert [breakdown.parts["format"] for breakdown in paid] == [1.0, 1.0, 0.0, 0.0, 1.0]


def test_official_solver() -> None:
    reward = OfficialSolverReward(Floats(), format_weight=0.1)
    responses = ["<think>x</think> \\boxed{7}", "\\boxed{7}", "<think>x</think> \\boxed{8}", "none", "\\boxed{km / h}"]
    paid = reward([responses[:3], responses[3:4], responses[4:]], ["7", "None", "km / h"])
    assert [totals(group) for group in paid] == [pytest.approx([1.0, 0.9, 0.1]), pytest.approx([0.9]), [0.0]]


def test_white_space_around_marks_and_the_think_format() -> None:
    assert close_up("  a < b /\n >  c  ") == "  a<b/>c  "
    assert close_up(" a ") == " a "
    assert close_up(" / ") == "/"
    assert close_up("") == ""
    assert thinks_then_boxes("<think></think>\\boxed{}")
    assert not thinks_then_boxes(" <think></think>\\boxed{}")
    assert not thinks_then_boxes("<think>\\boxed{}</think>")
    assert not thinks_then_boxes("<think></think>\\boxed{")


def test_soft_vote() -> None:
    reward = SoftVoteSolverReward(Floats(), label_votes=2, sharpness=2.0)
    responses = [f"\\boxed{{{answer}}}" for answer in ("7", "7.0", "8")] + ["none"]
    first, second = reward([responses, ["\\boxed{1}"] * 4], ["7", "2"])
    # first group: 7 has 2 + 2 votes, 8 has 1: 16/17 and 1/17; second group: 1 has 4, the label 2 has 2
    assert totals(first) == pytest.approx([16 / 17, 16 / 17, 1 / 17, 0.0])
    assert totals(second) == pytest.approx([16 / 20] * 4)
    assert [breakdown.parts["accuracy"] for breakdown in first] == [1.0, 1.0, 0.0, 0.0]
    assert [breakdown.parts["accuracy"] for breakdown in second] == [0.0] * 4


@pytest.mark.parametrize("size", [2, 5, 8])
def test_soft_votes_never_mix_the_responses_of_two_questions(size: int) -> None:
    """When groups were cut out of a flat list by a number kept elsewhere, right answers were paid as little as 0.01."""
    reward = SoftVoteSolverReward(Floats(), label_votes=10, sharpness=2.0)
    paid = reward([[f"\\boxed{{{question}}}"] * size for question in range(5)], [str(number) for number in range(5)])
    assert [totals(group) for group in paid] == [[1.0] * size] * 5


def test_controls() -> None:
    questions = [question(), question(answer=None), None]
    assert totals(FormatChallengerReward()(questions, [None] * 3)) == [1.0, 0.0, 0.0]
    assert totals(FormatSolverReward()([["\\boxed{1}", "\\boxed{", ""]], ["1"])[0]) == [1.0, 0.0, 0.0]
    first = totals(RandomChallengerReward(seed=1)(questions, [None] * 3))
    assert first == totals(RandomChallengerReward(seed=1)(questions, [vote(5)] * 3))
    assert first != totals(RandomChallengerReward(seed=2)(questions, [None] * 3))
    assert len({b.total for group in RandomSolverReward(seed=1)([["a"] * 10] * 5, ["1"] * 5) for b in group}) == 50
    assert all(0 <= total < 1 for total in first)


def test_coverage_pays_less_the_fuller_a_cell_is() -> None:
    first, second = [posed("a1"), posed("b1"), posed("c1")], [posed("a", iteration=2)] * 3
    texts = ["a2", "a3", "a4", "b2"]  # of this batch 3/4 are a, 1/4 b; of what was posed before 4/6 and 1/6
    share_a, share_b = (3 / 4 + 4 / 6) / 2, (1 / 4 + 1 / 6) / 2
    for strength, paid_a in ((1.0, 1 / (3 * share_a)), (2.0, 1 / (3 * share_a) ** 2), (0.0, 1.0)):
        reward = Coverage(
            Past(first, second), Letters(), reward=FormatChallengerReward(), cells=3, strength=strength, seed_of_cells=0
        )
        paid = reward([*(question(text) for text in texts), None], [vote(5)] * 4 + [None])
        assert share_b < 1 / 3  # the fair share: b is paid in full
        assert totals(paid) == pytest.approx([paid_a] * 3 + [1.0, 0.0])
        assert [item.parts["coverage"] for item in paid] == pytest.approx([paid_a] * 3 + [1.0, 1.0])


def test_coverage_knows_no_cells_in_the_first_iteration() -> None:
    reward = Coverage(Past(), Letters(), reward=FormatChallengerReward(), cells=3, strength=1.0, seed_of_cells=0)
    assert totals(reward([question("a"), question("a")], [vote(5)] * 2)) == [1.0, 1.0]
    with pytest.raises(ValueError, match="cells >= 2 and strength >= 0"):
        Coverage(Past(), Letters(), reward=FormatChallengerReward(), cells=1, strength=1.0, seed_of_cells=0)


def test_semantic_memory_charges_the_nearest_and_the_mean() -> None:
    """About the mean of a and b, (1/2, 1/2, 0), those two point in opposite directions and c is at right angles."""
    past = Past([posed("a1"), posed("b1")], [posed("a2", iteration=2)])
    reward = SemanticMemory(
        past, Letters(), reward=FormatChallengerReward(), max_weight=0.5, mean_weight=0.3, similar_above=0.9
    )
    paid = reward([question("a3"), question("b3"), question("c3"), None], [vote(5)] * 3 + [None])
    # remembered: a, b, a. a: nearest 1, mean (1 - 1 + 1) / 3; b: nearest 1, mean -1/3, which costs nothing; c: 0
    assert [item.parts["memory"] for item in paid] == pytest.approx([0.5 + 0.1, 0.5, 0.0, 0.0], abs=1e-6)
    assert totals(paid) == pytest.approx([0.4, 0.5, 1.0, 0.0], abs=1e-6)
    new = SemanticMemory(
        Past(), Letters(), reward=FormatChallengerReward(), max_weight=0.5, mean_weight=0.3, similar_above=0.9
    )
    assert totals(new([question("a")], [vote(5)])) == [1.0]
    with pytest.raises(ValueError, match="max_weight and mean_weight"):
        SemanticMemory(
            past, Letters(), reward=FormatChallengerReward(), max_weight=-1, mean_weight=0, similar_above=0.9
        )


def test_the_governor_pays_nothing_for_questions_much_longer_than_the_last_kept_ones() -> None:
    lengths = (10, 20, 30, 40)
    last = [posed("x" * n, iteration=2) for n in lengths]
    past = Past([posed("x" * 99)], [*last, posed("x" * 90, iteration=2, kept=False), posed("x" * 80, iteration=1)])
    reward = Governor(past, reward=FormatChallengerReward(), growth=1.5, quantile=0.5)  # 30 characters and a half more
    paid = reward([question("x" * 45), question("x" * 46), None], [vote(5), vote(5), None])
    assert totals(paid) == [1.0, 0.0, 0.0]
    assert [item.parts["governed"] for item in paid] == [0.0, 1.0, 0.0]
    free = Governor(Past(), reward=FormatChallengerReward(), growth=1.5, quantile=0.5)
    assert totals(free([question("x" * 999)], [vote(5)])) == [1.0]
    with pytest.raises(ValueError, match="growth must be positive"):
        Governor(Past(), reward=FormatChallengerReward(), growth=0, quantile=0.5)


class Angles:
    """Embeds a response by the angle (degrees) that stands in front of its first blank."""

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        degrees = np.deg2rad([float(text.split(" ")[0]) for text in texts])
        return np.stack([np.cos(degrees), np.sin(degrees)], axis=1).astype(np.float32)


def test_novelty_within_the_label_and_within_the_others() -> None:
    """Two equal responses and one at right angles come to the label; one that does not lies at 90 degrees as well.

    With weights of 1/2: u = 1 - (0 + 1) / 4 - 1 / 2 = 1/4 for the equal ones, 1 - 0 - 1/2 = 1/2 for the third, whose
    nearest is the wrong one.
    """
    reward = NoveltySolverReward(Floats(), Angles(), mean_weight=0.5)
    right, wrong = r"\boxed{7}", r"\boxed{8}"
    [paid] = reward([[f"0 {right}", f"0 {right}", f"90 {right}", f"90 {wrong}", "0 none"]], ["7.0"])
    assert [item.parts["novelty"] for item in paid[:3]] == pytest.approx([0.25, 0.25, 0.5], abs=1e-6)
    assert [item.total for item in paid] == pytest.approx([0.5, 0.5, 1.0, -0.5, -1.0])
    assert [item.parts["accuracy"] for item in paid] == [1, 1, 1, 0, 0]
    [one], [two] = reward([[f"0 {right}"], [f"0 {right}"]], ["7", "8"])
    assert (one.total, two.total) == (1.0, -0.5), "alone on its side, and groups are not mixed"
    [equal] = reward([[f"0 {right}", f"0.001 {right}", f"0 {right}"]], ["7"])
    assert [item.total for item in equal] == [1.0] * 3
    with pytest.raises(ValueError, match="mean_weight"):
        NoveltySolverReward(Floats(), Angles(), mean_weight=1.5)
