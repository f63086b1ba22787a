"""The micro experiment with vLLM's engine: the same questions as with the embedded one, and a whole run."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra.utils import instantiate

from rzero.selfplay import SelfPlay
from rzero.tracking import read_metrics
from rzero.types import LabelledQuestion, Question, Sampling
from tests.experiments.small import config, small_run

QUESTIONS = 24
SMALL_VLLM = (
    "engine=vllm",
    "engine.max_rows=64",
    "engine.host.kv_cache_gib=0.5",
    "engine.host.max_batched_tokens=4096",
)


@pytest.mark.parametrize("engine", ["vllm", "vllm_server"])
def test_engines_compose_without_vllm_installed(engine: str) -> None:
    made = instantiate(config(f"engine={engine}").engine)
    with pytest.raises(RuntimeError, match="call sync"):
        made.generate([], Sampling(max_tokens=1))
    made.close()


def run_with(directory: Path, *overrides: str) -> SelfPlay:
    """A run whose Solver answers greedily, so that it always agrees with itself, and whose band keeps agreement."""
    greedy = ("curriculum.sampling_answers.temperature=0", "curriculum.sampling_questions.temperature=0")
    return small_run(directory, *greedy, "curriculum.rule.band.half_width=0.5", *overrides)


def posed(run: SelfPlay, *, temperature: float) -> list[Question | None]:
    run.learning.sync(run.weights.load("solver", 0))
    sampling = Sampling(n=QUESTIONS, temperature=temperature, max_tokens=48, seed=3)
    [group] = run.learning.generate([run.prompts.challenger()], sampling)
    return [run.curriculum.parse(completion.text) for completion in group.completions]


def labelled(run: SelfPlay, questions: list[Question | None]) -> list[LabelledQuestion]:
    run.frozen.sync(run.weights.load("solver", 0))
    votes = run.polls.votes(run.curriculum.polling, questions, seed=5)
    return run.curriculum.rule.select(questions, votes, iteration=1)


@pytest.mark.vllm
def test_greedy_decoding_keeps_the_same_questions_as_the_embedded_engine(tmp_path: Path) -> None:
    runs = [run_with(tmp_path / "embedded"), run_with(tmp_path / "vllm", *SMALL_VLLM)]
    for run in runs:
        run.learning, run.frozen = run.make_engine(), run.make_engine()
    embedded, vllm = runs
    assert posed(vllm, temperature=0.0) == posed(embedded, temperature=0.0)
    questions = posed(embedded, temperature=1.0)
    expected = labelled(embedded, questions)
    assert len({question.question for question in expected if question.kept}) > QUESTIONS // 2
    assert labelled(vllm, questions) == expected
    for run in runs:
        run.learning.close()
        run.frozen.close()
        run.close()


@pytest.mark.vllm
def test_a_run_on_vllm_trains_and_samples_from_what_it_trains(tmp_path: Path) -> None:
    run = small_run(tmp_path / "run", *SMALL_VLLM, "iterations=1")
    run.run()
    run.close()
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert sum("evaluation/overall" in row for row in rows) == 2
    differences = [value for row in rows for name, value in row.items() if name.endswith("logp_difference/max")]
    assert len(differences) == 4
    assert max(differences) < 1e-4


@pytest.mark.slow
def test_vllm_in_the_training_process_is_refused_to_several_processes(tmp_path: Path) -> None:
    run = small_run(tmp_path / "run", *SMALL_VLLM, "trainer=ddp_cpu")
    with pytest.raises(ValueError, match="VllmEngine with these settings serves runs of one process"):
        run.run()
    run.close()
