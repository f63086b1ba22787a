"""BLEU clusters: values by hand, nltk and scikit-learn as oracles, and the authors' recorded batches."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.bench.repetition import naive_shares_of, sample_questions
from rzero.repetition import (
    AnyLanguageRepetition,
    bleu_distance,
    cluster_labels,
    cluster_shares,
    nearest_similarity,
)
from rzero.repetition.any_language import fine_tokens

ANY = AnyLanguageRepetition(words=8)


def distance(hypothesis: str, reference: str) -> float:
    return bleu_distance(hypothesis.split(), reference.split())


TEN = "one two three four five six seven eight nine ten"


def test_bleu_by_hand() -> None:
    # "a b c d e" against "a b c d f": 4/5, 3/4, 2/3, 1/2 and equal lengths
    assert distance("a b c d e", "a b c d f") == pytest.approx(1 - 0.2**0.25)
    # two words: 2/2, 1/1, then 0.1/1 twice by smoothing
    assert distance("a b", "a b") == pytest.approx(1 - 0.01**0.25)
    # a hypothesis of 4 words against 8: brevity exp(1 - 8/4), all four precisions 1
    assert distance("a b c d", "a b c d e f g h") == pytest.approx(1 - math.exp(-1))
    # clipping: "a a a a" against "a b c d": 1/4, then 0.1/3, 0.1/2, 0.1/1
    clipped = (1 / 4 * 0.1 / 3 * 0.1 / 2 * 0.1) ** 0.25
    assert distance("a a a a", "a b c d") == pytest.approx(1 - clipped)
    assert distance("a", "b") == 1.0
    assert distance("", "") == 1.0


def test_shares_by_hand() -> None:
    assert cluster_shares([TEN, "nothing like it at all", TEN, TEN]) == [0.75, 0.25, 0.75, 0.75]
    assert cluster_shares([TEN]) == [1.0]
    assert cluster_shares([]) == []


def test_empty_and_one_word_questions_stand_alone() -> None:
    assert cluster_shares(["", "", "hello", "hello", " \n"]) == [0.2] * 5
    assert cluster_shares(["两个相同的问题", "两个相同的问题"]) == [0.5, 0.5]


def test_the_order_matters_as_in_the_authors_code() -> None:
    long, short = TEN, "one two three four five six"
    # as hypothesis the long one has precisions 6/10, 5/9, 4/8, 3/7 and no brevity penalty: BLEU 0.517
    assert cluster_shares([long, short]) == [1.0, 1.0]
    # the short one has precision 1 but brevity exp(1 - 10/6): BLEU 0.513, still together; at 0.45 only one is
    assert cluster_shares([long, short], threshold=0.485) == [1.0, 1.0]
    assert cluster_shares([short, long], threshold=0.485) == [0.5, 0.5]


def test_the_threshold_is_exclusive() -> None:
    pair = ["a b c d e", "a b c d f"]
    apart = distance(*pair)
    assert cluster_shares(pair, threshold=apart) == [0.5, 0.5]
    assert cluster_shares(pair, threshold=math.nextafter(apart, 1)) == [1.0, 1.0]


@pytest.mark.parametrize("threshold", [0.0, -1.0, 1.5, math.nan])
def test_a_threshold_outside_its_range_is_refused(threshold: float) -> None:
    with pytest.raises(ValueError, match="threshold must lie in"):
        cluster_labels([TEN, TEN], threshold=threshold)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.lists(st.sampled_from("abcde"), max_size=9).map(" ".join), min_size=2, max_size=12),
    st.sampled_from([0.2, 0.5, 0.8]),
)
@pytest.mark.filterwarnings("default")
def test_random_texts_agree_with_nltk_and_scikit_learn(questions: list[str], threshold: float) -> None:
    assert cluster_shares(questions, threshold=threshold) == naive_shares_of(questions, threshold=threshold)


def test_many_questions_agree_with_nltk_and_scikit_learn() -> None:
    questions = sample_questions(150, seed=1)
    shares = cluster_shares(questions)
    assert shares == naive_shares_of(questions)
    assert max(shares) > 1 / 150  # the sample does hold clusters


def test_blocks_do_not_show() -> None:
    questions = sample_questions(300, seed=2)
    labels = cluster_labels(questions)
    assert np.array_equal(labels, labels[labels])  # named by a member of the cluster
    doubled = cluster_shares(questions + questions)
    assert doubled[:300] == doubled[300:]


def test_nearest_similarity() -> None:
    past = ["a b c d f", "x y z", ""]
    got = nearest_similarity(["a b c d e", "", "x y z"], past=past)
    assert got == pytest.approx([0.2**0.25, 0.0, 0.1**0.25])
    assert nearest_similarity(["a"], past=[]) == [0.0]


# --- in any language ---

APPLES, FROGS = "小明有三个苹果又买了五个一共有几个？", "一只青蛙四条腿两只几条腿？"


@pytest.mark.parametrize(
    "text",
    [
        "hello",
        "2+2?",
        "Find x.",
        APPLES,
        "กี่บาท",
        "いくつですか",
        "이것은 질문",
        "Сколько?",
        "\u200b",
        TEN,
        f"{TEN} {APPLES}",
    ],
)
def test_exact_copies_always_cost(text: str) -> None:
    """A text without blanks is one word, and copies of one word have BLEU 0 (minimind#832, ragas#2951)."""
    assert ANY([text, FROGS, text, text]) == [0.75, 0.25, 0.75, 0.75]


def test_copies_without_blanks_are_free_in_the_papers_penalty_only() -> None:
    batch = [APPLES] * 4 + [FROGS]
    assert ANY(batch) == [0.8] * 4 + [0.2]
    assert cluster_shares(batch) == [0.2] * 5


@pytest.mark.parametrize(
    "template", ["Compute {} + {}.", "{}+{}=?", "计算{}加{}。", "Solve {}x = {}", "What is {} % of {}?"]
)
def test_short_templates_with_other_numbers_are_one_cluster(template: str) -> None:
    """Without that a Challenger repeats itself with small changes (R-Zero#8)."""
    texts = [template.format(a, b) for a, b in ((3, 4), (17, "2.5"), (100, 8), ("1,000", 9))]
    assert ANY([*texts, "Name a prime."]) == [0.8] * 4 + [0.2]


def test_different_short_questions_stay_apart() -> None:
    texts = ["What is 3 + 4?", "What is 5 * 7?", "Find the area of a circle.", "Find x.", "求圆的面积", APPLES, FROGS]
    assert ANY(texts) == [1 / 7] * 7
    assert ANY(["", "", " \n"]) == [1 / 3] * 3, "no question is nobody's copy"


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.lists(st.sampled_from(["a", "b", "3", "4.", "D"]), min_size=8, max_size=14).map(" ".join), max_size=10),
    st.sampled_from([0.2, 0.5, 0.8]),
)
def test_long_texts_have_the_papers_shares(questions: list[str], threshold: float) -> None:
    assert ANY(questions, threshold=threshold) == cluster_shares(questions, threshold=threshold)


def test_many_long_texts_have_the_papers_shares_also_beside_short_ones() -> None:
    questions = sample_questions(200, seed=3)
    assert ANY(questions) == cluster_shares(questions)
    beside = ANY([*questions, *["2+2?"] * 50])
    assert [share * 250 for share in beside[:200]] == pytest.approx(
        [share * 200 for share in cluster_shares(questions)]
    )
    assert beside[200:] == [0.2] * 50


def test_fine_tokens() -> None:
    assert fine_tokens("Compute ３.5X² + 7.") == ["compute", "0", "x", "0", "+", "0", "."]
    assert fine_tokens("两个 apples") == ["两", "个", "apples"]
    assert fine_tokens("ab12") == ["a", "b", "0"]
    with pytest.raises(ValueError, match="words must be at least 1, got 0"):
        AnyLanguageRepetition(words=0)
