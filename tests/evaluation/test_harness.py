"""The harness around a scripted engine: grouping, protocols, resumption, result files, clear refusals."""

from __future__ import annotations

import json
import random
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from evaluation.engine_lm import EngineLM
from evaluation.harness import HarnessSuite
from evaluation.judging import NoFallback
from evaluation.problems import Benchmark, BenchmarkItem
from evaluation.protocol import Protocol
from evaluation.remote_judge import NoRemoteJudge
from evaluation.sources import Datasets, Generated
from evaluation.store import TaskStore
from rzero.engines.embedded import EmbeddedEngine
from rzero.grading import ExactGrader
from rzero.prompts import Prompts
from rzero.types import Group, Json, Prompt, Sampling
from rzero.voting import PaperVote
from tests.pretend_cuda import pretend_cuda
from tests.scripted import ScriptedEngine
from tests.tiny_models import build_policy

GRADER = ExactGrader(max_chars=2000)
PROMPTS = Prompts(challenger_system="", challenger_user="x", solver_system="S", solver_user="Q: {question}")


def benchmark(name: str, group: Any, count: int) -> Benchmark:
    items = (BenchmarkItem(id=f"{name}-{i}", question=f"{name} {i}", answer=str(i), level=1) for i in range(count))
    return Benchmark(name=name, group=group, items=tuple(items))


TWICE = replace(benchmark("sum", "math", 1), items=benchmark("sum", "math", 1).items * 2)
SOURCE = Generated(source=(benchmark("sum", "math", 5), benchmark("order", "general", 4)))


DEFINITIONS: dict[str, Json] = {
    "sum": {"group": "math", "kind": "mathematics"},
    "order": {"group": "general", "kind": "mathematics"},
    "gsm8k": {"group": "math", "kind": "mathematics", "max_tokens": 256},
    "math500": {"group": "math", "kind": "mathematics", "max_tokens": 256},
}


def suite(folder: Path | None, **changes: Any) -> HarnessSuite:
    parts: dict[str, Any] = {
        "tasks": ["sum", "order"],
        "definitions": DEFINITIONS,
        "source": SOURCE,
        "protocol": Protocol(sampled=["sum"], k=4, temperature=1.0, max_tokens=64),
        "reading": "boxed",
        "fallback": NoFallback(),
        "prompts": PROMPTS,
        "grader": GRADER,
        "vote": PaperVote(GRADER),
        "folder": None if folder is None else str(folder),
        "completions_per_call": 8,
        "remote_judge": NoRemoteJudge(),
    }
    return HarnessSuite(**parts | changes)


def reply(prompt: Prompt, sample: int) -> str:
    """Item i is answered rightly by sample 0 always and by the others when i is even."""
    number = int(prompt.user.split()[-1]) if prompt.user.startswith("Q:") else 0
    right = sample == 0 or number % 2 == 0
    return rf"So \boxed{{{number if right else 'wrong'}}}"


class Killed(RuntimeError):
    pass


class DyingEngine(ScriptedEngine):
    """Answers `lives` calls, then dies."""

    def __init__(self, lives: int) -> None:
        super().__init__(reply)
        self.lives = lives

    def generate(self, prompts: Any, sampling: Sampling, *, progress: Any = None) -> list[Group]:
        if len(self.calls) == self.lives:
            raise Killed
        return super().generate(prompts, sampling, progress=progress)


def test_scores_by_hand_and_one_engine_call_per_group_of_samples() -> None:
    engine = ScriptedEngine(reply)
    scores = suite(None).evaluate(engine, weights="w").scores
    table = scores.table()
    # mean@4 of sum: items 0, 2, 4 all right, 1 and 3 one of four; order is not sampled, its greedy answers are right
    assert table["sum"] == pytest.approx(
        {"greedy": 100, "mean@k": 70, "maj@k": 60, "pass@k": 100, "greedy well-formed": 100, "sampled well-formed": 100}
    )
    assert table["order"]["mean@k"] == 100
    assert scores.overall == pytest.approx((70 + 100) / 2)
    assert scores.k == 4
    # sum: 5 greedy prompts in one call; 5 x 4 samples in calls of 8 completions; order: one call
    assert [(len(prompts), sampling.n) for prompts, sampling in engine.calls] == [
        (5, 1),
        (2, 4),
        (2, 4),
        (1, 4),
        (4, 1),
    ]
    assert engine.calls[0][0][0] == Prompt(system="S", user="Q: sum 0"), "the prompt of training"
    assert [sampling.temperature for _, sampling in engine.calls] == [0, 1, 1, 1, 0]
    assert len({sampling.seed for _, sampling in engine.calls[1:4]}) == 3, "answers are drawn anew in every call"
    assert engine.calls[0][1].seed == engine.calls[1][1].seed == 0, (
        "a benchmark of one call has the protocol's own seed"
    )


def test_benchmarks_are_known_before_anything_is_asked() -> None:
    assert [(b.name, b.group, len(b.items)) for b in suite(None).benchmarks] == [
        ("sum", "math", 5),
        ("order", "general", 4),
    ]


@pytest.mark.parametrize("lives", range(1, 5))
def test_an_evaluation_killed_anywhere_goes_on_and_ends_alike(tmp_path: Path, lives: int) -> None:
    whole = suite(None).evaluate(ScriptedEngine(reply), weights="w")
    first = DyingEngine(lives)
    with pytest.raises(Killed):
        suite(tmp_path).evaluate(first, weights="w")
    second = ScriptedEngine(reply)
    assert suite(tmp_path).evaluate(second, weights="w") == whole
    assert len(first.calls) + len(second.calls) == 5, "no call was made twice"


def test_nothing_is_evaluated_twice_and_other_weights_or_protocols_are_evaluated(tmp_path: Path) -> None:
    found = suite(tmp_path).evaluate(ScriptedEngine(reply), weights="w")
    again = ScriptedEngine(reply)
    assert suite(tmp_path).evaluate(again, weights="w") == found
    assert again.calls == []
    for weights, protocol in (
        ("other", Protocol(sampled=["sum"], k=4, temperature=1.0, max_tokens=64)),
        ("w", Protocol(max_tokens=32)),
    ):
        engine = ScriptedEngine(reply)
        suite(tmp_path, protocol=protocol).evaluate(engine, weights=weights)
        assert engine.calls


def test_without_a_weights_hash_the_engine_is_probed(tmp_path: Path) -> None:
    suite(tmp_path).evaluate(ScriptedEngine(reply))
    same, other = ScriptedEngine(reply), ScriptedEngine(lambda prompt, sample: reply(prompt, sample) + "!")
    suite(tmp_path).evaluate(same)
    suite(tmp_path).evaluate(other)
    assert len(same.calls) == 1, "the probe only"
    assert len(other.calls) > 1


def test_lm_eval_result_files_are_lm_evals_own(tmp_path: Path) -> None:
    from lm_eval.utils import make_table

    for _ in range(2):
        harness = suite(tmp_path)
        harness.write_lm_results(harness.evaluate(ScriptedEngine(reply), weights="w"))
    [path] = (tmp_path / "lm_eval" / "sampled" / "w").glob("results_*.json")
    results = json.loads(path.read_text())
    assert results["results"]["sum"]["exact_match,all"] == pytest.approx(0.7)
    # standard error over the 5 problems, not over the 20 samples
    expected = np.std([1, 0.25, 1, 0.25, 1], ddof=1) / 5**0.5
    assert results["results"]["sum"]["exact_match_stderr,all"] == pytest.approx(expected)
    assert "exact_match" in make_table(results)
    [samples] = (tmp_path / "lm_eval" / "sampled" / "w").glob("samples_sum_*.jsonl")
    rows = [json.loads(line) for line in samples.read_text().splitlines()]
    assert len(rows) == 5
    assert len(rows[1]["resps"][0]) == 4


def test_no_global_random_generator_is_touched() -> None:
    random.seed(1)
    np.random.seed(2)
    torch.manual_seed(3)
    before = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())  # type: ignore[index]
    suite(None).evaluate(ScriptedEngine(reply), weights="w")
    assert before == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())  # type: ignore[index]


def test_prompts_over_the_context_are_wrong_and_reported() -> None:
    found = suite(None).evaluate(ScriptedEngine(reply), weights="w", fits=lambda prompt: not prompt.user.endswith("0"))
    assert found.scores.table()["sum"]["greedy"] == 80
    assert {name: notes.too_long for name, notes in found.notes.items()} == {"sum": 1, "order": 1}


class CuttingEngine(ScriptedEngine):
    """Samples of question 0, and no greedy answer, run into the token limit."""

    def generate(self, prompts: Any, sampling: Sampling, *, progress: Any = None) -> list[Group]:
        return [
            replace(g, completions=tuple(replace(c, finish_reason="length") for c in g.completions))
            if sampling.temperature and g.prompt.user.endswith(" 0")
            else g
            for g in super().generate(prompts, sampling, progress=progress)
        ]


@pytest.mark.parametrize("kept", [False, True])
def test_the_truncated_share_of_each_decoding_is_reported_kept_or_not(tmp_path: Path, kept: bool) -> None:
    folder = tmp_path if kept else None
    found = suite(folder).evaluate(CuttingEngine(reply), weights="w")
    assert found.notes["sum"].truncated == {"greedy": 0.0, "sampled": 0.2}
    assert found.notes["order"].truncated == {"greedy": 0.0}
    if kept:
        for path in tmp_path.rglob("score_*.json"):
            path.unlink()
        assert suite(folder).evaluate(DyingEngine(0), weights="w").notes == found.notes, "told by kept responses too"


def test_the_authors_mean_is_one_greedy_answer_repeated() -> None:
    protocol = Protocol(sampled=["sum"], k=32, temperature=0.0, max_tokens=64)
    engine = ScriptedEngine(lambda prompt, sample: reply(prompt, 0))
    scores = suite(None, tasks=["sum"], protocol=protocol).evaluate(engine, weights="w").scores
    assert scores.table()["sum"]["mean@k"] == scores.table()["sum"]["greedy"] == 100
    assert {sampling.temperature for _, sampling in engine.calls} == {0.0}


def test_likelihoods_are_refused() -> None:
    store = TaskStore(None, weights="w", task="t", signature="s")
    sampling = Sampling(max_tokens=5)
    lm = EngineLM(ScriptedEngine(reply), prompts=PROMPTS, sampling=sampling, store=store, completions_per_call=1)
    with pytest.raises(NotImplementedError, match="generate only"):
        lm.loglikelihood([])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": ["nonsense"]}, "no task nonsense; benchmarks.definitions has sum, order"),
        ({"protocol": Protocol(sampled=["nonsense"])}, "no task nonsense"),
        ({"protocol": Protocol()}, "protocol.max_tokens must be given"),
        (
            {"definitions": {"sum": {"group": "art", "kind": "phrase"}}},
            r"definitions.sum: group must be math or general",
        ),
        ({"definitions": {"sum": {"group": "math", "kind": "essay"}}}, r"definitions.sum: kind must be one of"),
        ({"definitions": {"sum": {"group": "math"}}}, r"definitions.sum: .*'kind'"),
        ({"source": Generated(source=(benchmark("sum", "math", 0),))}, "benchmark sum has no question"),
        ({"source": Generated(source=(TWICE,))}, "benchmark sum: two questions have one id"),
    ],
)
def test_what_is_wrong_with_a_suite_is_said_before_anything_is_asked(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        suite(None, **{"tasks": ["sum"], "protocol": Protocol(max_tokens=64)} | changes)


def test_missing_data_is_said_clearly(tmp_path: Path) -> None:
    (tmp_path / "gsm8k.jsonl").write_text('{"id": "1", "problem": "p", "answer": "2"}\n')
    folder = Datasets(hub={}, data_dir=str(tmp_path))
    assert suite(None, tasks=["gsm8k"], protocol=Protocol(), source=folder).benchmarks[0].items[0].answer == "2"
    with pytest.raises(ValueError, match=r"has no math500.jsonl \(there is gsm8k.jsonl\).*data_dir=null"):
        suite(None, tasks=["math500"], protocol=Protocol(), source=folder)


def test_the_hub_out_of_reach_is_said_clearly(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    hub = {"math500": {"path": "a/b", "split": "test", "revision": "abc"}}
    with pytest.raises(ValueError, match=r"cannot get a/b at abc from the hub .*data_dir=<folder>"):
        suite(None, tasks=["math500"], protocol=Protocol(), source=Datasets(hub=hub))


def test_rows_of_the_hub_take_the_form_of_the_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    rows = [{"question": "q", "answer": "work\n#### 7", "final_answer": ["$1$", "$2$"]}]
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: rows)
    base = {"path": "a/b", "split": "test", "revision": "abc", "question": "question"}
    hub = {"gsm8k": {**base, "answer_after": "####"}, "olympiadbench": {**base, "answer": "final_answer"}}
    source = Datasets(hub=hub)
    assert source.documents("gsm8k", kind="mathematics")[0]["answer"] == "7"
    assert source.documents("olympiadbench", kind="mathematics")[0]["answer"] == "$1$, $2$"


def test_an_evaluation_on_a_gpu_gives_what_the_cpu_gives() -> None:
    """On a pretend device: the weights' fingerprint, greedy and sampled answers, scores and notes."""
    policy, found = build_policy("qwen3"), []
    for device in (None, "cuda"):
        with nullcontext() if device is None else pretend_cuda():
            engine = EmbeddedEngine(
                max_rows=8, threads=1, compact_below=0.85, prefill_tokens=64, first_capacity=4, verify_sync=True,
                decoder="auto", device=device,
            )  # fmt: skip
            engine.sync(policy)
            protocol = Protocol(sampled=["sum"], k=2, temperature=1.0, max_tokens=8)
            found.append(suite(None, protocol=protocol).evaluate(engine))
    assert found[0] == found[1]
