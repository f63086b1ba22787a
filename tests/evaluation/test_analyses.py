"""Contamination, diversity, difficulty and pass@k on cases worked out by hand."""

from __future__ import annotations

import pytest

from evaluation.analyses import difficulty, diversity, entropy, pass_curve
from evaluation.contamination import grams, overlaps
from evaluation.metrics import BenchmarkScore, Outcome, Scores, pass_at, standard_errors
from evaluation.problems import Benchmark, BenchmarkItem
from rzero.grading import ExactGrader
from rzero.prompts import Prompts
from rzero.types import Sampling
from rzero.voting import PaperVote
from tests.scripted import ScriptedEngine


def sampled(*rates: float, k: int = 4) -> Scores:
    outcomes = tuple(
        Outcome(
            id=str(i), level=0, greedy=rate == 1, greedy_boxed=True, sampled=rate, sampled_boxed=1.0,
            majority=rate > 0.5, any_right=rate > 0,
        )
        for i, rate in enumerate(rates)
    )  # fmt: skip
    return Scores(k=k, benchmarks=(BenchmarkScore(name="b", group="math", outcomes=outcomes),), headline=("mean@k",))


def test_the_headline_decides_the_overall_score_and_survives_json() -> None:
    scores = sampled(0.5, 1.0)
    assert scores.overall == 75
    assert Scores.from_json(scores.to_json()) == scores
    with pytest.raises(ValueError, match="headline must name"):
        Scores(k=1, benchmarks=(), headline=("best",))


def test_standard_errors_are_over_problems() -> None:
    assert standard_errors(sampled(0.0, 1.0))["b"]["mean@k"] == pytest.approx(50.0)
    assert standard_errors(sampled(1.0))["b"]["mean@k"] == 0.0


def test_pass_at_is_the_unbiased_estimate() -> None:
    # 1 of 4 right: two draws miss it with probability C(3,2)/C(4,2) = 1/2; 2 of 4: C(2,2)/C(4,2) = 1/6
    assert pass_at(sampled(0.25).benchmarks[0], k=4, draws=2) == pytest.approx(50)
    assert pass_at(sampled(0.5).benchmarks[0], k=4, draws=2) == pytest.approx(100 * 5 / 6)
    assert pass_curve(sampled(0.25, 0.0)) == {"b": {1: pytest.approx(12.5), 2: pytest.approx(25), 4: pytest.approx(50)}}
    with pytest.raises(ValueError, match="at least that many"):
        pass_at(sampled(0.5).benchmarks[0], k=4, draws=5)


BENCHMARK = Benchmark(
    name="b",
    group="math",
    items=(
        BenchmarkItem(id="long", question="How many primes lie between ten and twenty, ends included?", answer="4"),
        BenchmarkItem(id="short", question="2 + 2?", answer="4"),
    ),
)


def test_overlap_counts_shared_word_sequences() -> None:
    questions = ["Tell me: how many PRIMES lie between ten and forty?", "2+2?", "Something else entirely, my friend."]
    [found] = overlaps(questions, [BENCHMARK], n=5)
    assert (found.questions, found.overlapping, found.contained) == (3, 2, 1)
    assert [(hit.question, hit.item) for hit in found.hits] == [(1, "short"), (0, "long")]
    # 12 words and signs, 8 five-grams; shared: the 3 inside "how many primes lie between ten and"
    assert found.hits[1].share == pytest.approx(3 / 8)
    assert grams("", n=5) == []
    with pytest.raises(ValueError, match="n >= 1"):
        overlaps(questions, [BENCHMARK], n=0)


def test_diversity_of_copies_and_of_different_questions() -> None:
    same = diversity(["What is the sum of one and two and three?"] * 4)
    assert (same.distinct, same.clusters, same.cluster_entropy) == (0.25, 0.25, 0.0)
    different = diversity(["What is one plus two?", "Name a large green animal now.", "Solve x squared equals nine."])
    assert (different.distinct, different.clusters) == (1.0, 1.0)
    assert entropy([1, 1, 1, 1]) == 2.0
    assert entropy([]) == 0.0


def test_difficulty_of_questions_for_a_solver() -> None:
    grader = ExactGrader(max_chars=100)
    answers = {"a": [r"\boxed{1}"] * 3 + [r"\boxed{2}"], "b": ["no idea"] * 4}
    cell = difficulty(
        ["a", "b"],
        ScriptedEngine(answers),
        prompts=Prompts(challenger_system="", challenger_user="x", solver_system="", solver_user="{question}"),
        vote_many=PaperVote(grader).vote_many,
        sampling=Sampling(n=4, max_tokens=50),
        references=["1", None],
        accepts=grader.accepts,
    )
    assert (cell.agreement, cell.answered, cell.accuracy) == (0.375, 0.5, 0.75)
