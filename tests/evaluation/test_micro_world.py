"""The micro world: questions read back as they were written, answers are right, benchmark items stay unseen."""

import itertools
import random
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from evaluation.micro.benchmarks import micro_benchmarks
from evaluation.micro.corpus import CorpusSpec, documents, held_out
from evaluation.micro.world import FAMILIES, SPLIT_BUCKET, bucket, oracle, solve

CONF = Path(__file__).resolve().parents[2] / "conf"


@pytest.mark.parametrize("name", list(FAMILIES))
def test_every_written_question_is_read_back_with_its_level(name: str) -> None:
    family, rng = FAMILIES[name], random.Random(1)
    for level in range(1, family.levels + 1):
        for _ in range(30):
            problem = family.make(rng, level)
            assert oracle(family.write(problem)) == (problem, solve(problem))
            assert problem.level == level


@pytest.mark.parametrize(
    ("question", "answer", "level"),
    [
        ("Compute 25 - 2 + 9.", "32", 2),
        ("Find the last digit of 3 * 4 * 7.", "4", 2),
        ("Solve x + 10 - 4 = 20.", "14", 2),
        ("Continue 3, 7, 11. What comes 2 later?", "19", 2),
        ("B<D, A<B. Who is last?", "D", 2),
        ("B<D, A<B. Who is first?", "A", 2),
        ("Kim has 37 eggs. Kim finds 3. Kim sells 10. How many eggs has Kim?", "30", 2),
    ],
)
def test_answers_worked_out_by_hand(question: str, answer: str, level: int) -> None:
    known = oracle(question)
    assert known is not None
    assert (known[1], known[0].level) == (answer, level)


@pytest.mark.parametrize(
    "question",
    [
        "",
        "Compute 25.",
        "Compute 25 - 2 + 9",
        "Compute 25 - 2 + 9. And then?",
        "Continue 3, 7, 12. What comes 2 later?",
        "A<B, B<A. Who is first?",
        "A<B, C<D. Who is first?",
        "Kim has 37 eggs. Tom finds 3. How many eggs has Kim?",
        "Compute 1" + " + 1" * 1000 + ".",
    ],
)
def test_the_oracle_answers_well_formed_questions_only(question: str) -> None:
    assert oracle(question) is None


def corpus_spec() -> CorpusSpec:
    spec = OmegaConf.to_container(OmegaConf.load(CONF / "pretrain.yaml").corpus)
    spec.pop("_target_")
    return CorpusSpec(**{key: tuple(value) if isinstance(value, list) else value for key, value in spec.items()})


def test_the_pretraining_text_holds_no_benchmark_item() -> None:
    items = {
        item.question
        for split in SPLIT_BUCKET
        for benchmark in micro_benchmarks(split=split, items=100, levels=range(2, 9), seed=0)
        for item in benchmark.items
    }
    assert len(items) == 1200
    assert all(held_out(question) for question in items)
    seed = OmegaConf.load(CONF / "pretrain.yaml").seed
    for document in itertools.islice(documents(corpus_spec(), seed=seed + 1), 20_000):
        posed = document.question or document.response.partition("<question>")[2].partition("</question>")[0]
        assert not held_out(posed)
        assert posed not in items


def test_the_splits_share_no_item() -> None:
    for split, other in (("dev", "test"), ("test", "dev")):
        for benchmark in micro_benchmarks(split=split, items=20, levels=[2, 5], seed=3):
            assert all(bucket(item.question) == SPLIT_BUCKET[split] != SPLIT_BUCKET[other] for item in benchmark.items)


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match=r"benchmarks\.split must be one of dev, test, got 'train'"):
        micro_benchmarks(split="train", items=1, levels=[2], seed=0)
