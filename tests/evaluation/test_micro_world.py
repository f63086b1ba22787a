"""The micro world: questions read back as they were written, answers are right, benchmark items stay unseen."""

import hashlib
import itertools
import random
from collections.abc import Iterator
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


def sha256(lines: Iterator[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def test_the_protocols_items_and_the_corpus_are_those_of_the_kept_results() -> None:
    """Everything measured so far was measured on these: what the world gains beside them must not move them."""
    cfg = OmegaConf.load(CONF / "benchmarks" / "micro.yaml")
    asked = OmegaConf.to_container(cfg.source.source)
    assert {key: value for key, value in asked.items() if key != "_target_"} == {
        "split": "test",
        "items": 100,
        "levels": [2, 3, 4, 5, 6, 7, 8],
        "seed": 0,
    }
    assert (cfg.protocol.k, cfg.protocol.temperature, list(cfg.protocol.headline)) == (8, 1.0, ["greedy", "mean@k"])
    for split, expected in (("dev", "c38f17a6ace1953b"), ("test", "fbe9b8ec8f2aecc6")):
        benchmarks = micro_benchmarks(split=split, items=100, levels=asked["levels"], seed=0)
        items = ((b.name, item) for b in benchmarks for item in b.items)
        assert sha256(f"{name} {i.id} {i.level} {i.question} {i.answer}" for name, i in items) == expected
    some = itertools.islice(documents(corpus_spec(), seed=1), 2000)
    assert sha256(f"{d.role} {d.question} {d.response}" for d in some) == "fa255259e012b083"


def test_harder_questions_are_a_suite_of_their_own_whose_items_nobody_has_seen() -> None:
    cfg = OmegaConf.load(CONF / "benchmarks" / "micro_hard.yaml")
    asked, families = OmegaConf.to_container(cfg.source.source), list(cfg.definitions)
    assert families == ["sum", "digit", "solve", "sequence", "story"]
    assert cfg.protocol.max_tokens > OmegaConf.load(CONF / "scale" / "micro.yaml").response_tokens
    benchmarks = micro_benchmarks(
        split="dev", items=asked["items"], levels=asked["levels"], seed=asked["seed"], families=families
    )
    assert [benchmark.name for benchmark in benchmarks] == families
    for benchmark in benchmarks:
        assert {item.level for item in benchmark.items} == set(range(9, 17))
        for item in benchmark.items:
            known = oracle(item.question)
            assert known is not None
            assert (known[0].level, known[1]) == (item.level, item.answer)
            assert bucket(item.question) == SPLIT_BUCKET["dev"]


@pytest.mark.parametrize(("families", "level"), [(["order"], 10), (["sum"], 17), (["sum"], 0)])
def test_a_level_that_a_family_does_not_have_is_refused(families: list[str], level: int) -> None:
    with pytest.raises(ValueError, match=rf"{families[0]} has levels 1 to \d+, got \[{level}\]"):
        micro_benchmarks(split="dev", items=1, levels=[2, level], seed=0, families=families)


def test_the_splits_share_no_item() -> None:
    for split, other in (("dev", "test"), ("test", "dev")):
        for benchmark in micro_benchmarks(split=split, items=20, levels=[2, 5], seed=3):
            assert all(bucket(item.question) == SPLIT_BUCKET[split] != SPLIT_BUCKET[other] for item in benchmark.items)


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match=r"benchmarks\.split must be one of dev, test, got 'train'"):
        micro_benchmarks(split="train", items=1, levels=[2], seed=0)
