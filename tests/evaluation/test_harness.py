"""The harness around a scripted engine: grouping, protocols, resumption, result files, clear refusals."""

from __future__ import annotations

import json
import random
from contextlib import nullcontext
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers.decoders import Fuse

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
from rzero.prompts import Prompts, set_day
from rzero.types import Group, Json, Prompt, Sampling
from rzero.voting import PaperVote
from tests.pretend_cuda import pretend_cuda
from tests.scripted import NamedPolicy, ScriptedEngine
from tests.tiny_models import CHAT_TEMPLATE, build_policy

GRADER = ExactGrader(max_chars=2000)
W: Any = NamedPolicy()
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
        "drawn_by": ["an.Engine", None],
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

    def __init__(self, lives: int, script: Any = reply) -> None:
        super().__init__(script)
        self.lives = lives

    def generate(self, prompts: Any, sampling: Sampling, *, progress: Any = None) -> list[Group]:
        if len(self.calls) == self.lives:
            raise Killed
        return super().generate(prompts, sampling, progress=progress)


def test_scores_by_hand_and_one_engine_call_per_group_of_samples() -> None:
    engine = ScriptedEngine(reply)
    scores = suite(None).evaluate(engine, policy=W).scores
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
    whole = suite(None).evaluate(ScriptedEngine(reply), policy=W)
    first = DyingEngine(lives)
    with pytest.raises(Killed):
        suite(tmp_path).evaluate(first, policy=W)
    second = ScriptedEngine(reply)
    assert suite(tmp_path).evaluate(second, policy=W) == whole
    assert len(first.calls) + len(second.calls) == 5, "no call was made twice"


def other_tokenizer(change: Any) -> Any:
    policy = NamedPolicy()
    change(policy.tokenizer)
    return policy


TWICE_AS_HARD = CHAT_TEMPLATE.replace("assistant", "assistant\\nThink twice.")
DATED = "{{ strftime_now('%d %b %Y') }}" + CHAT_TEMPLATE


@pytest.mark.parametrize(
    "changes",
    [
        {"policy": NamedPolicy(name="other")},
        {"policy": other_tokenizer(lambda tokenizer: setattr(tokenizer, "chat_template", TWICE_AS_HARD))},
        {"policy": other_tokenizer(lambda tokenizer: tokenizer.add_tokens(["boxed"]))},
        {"policy": other_tokenizer(lambda tokenizer: setattr(tokenizer.backend_tokenizer, "decoder", Fuse()))},
        {"policy": NamedPolicy(ends=(1, 5))},
        {"policy": NamedPolicy(longest=100)},
        {"protocol": Protocol(max_tokens=32)},
        {"drawn_by": ["an.Engine", "bfloat16"]},
        {"drawn_by": ["another.Engine", None]},
        {"prompts": Prompts(challenger_system="", challenger_user="x", solver_system="T", solver_user="Q: {question}")},
        {"source": Generated(source=(benchmark("sum", "math", 6), benchmark("order", "general", 4)))},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_whatever_decides_a_response_is_part_of_its_key(tmp_path: Path, changes: dict[str, Any]) -> None:
    found = suite(tmp_path).evaluate(ScriptedEngine(reply), policy=W)
    W.tokenizer(["a", "longer"], padding=True)  # leaves its mark on the tokenizer, and none on what it does
    again, other = ScriptedEngine(reply), ScriptedEngine(reply)
    assert suite(tmp_path).evaluate(again, policy=W) == found
    assert again.calls == []
    policy = changes.pop("policy", W)
    suite(tmp_path, **changes).evaluate(other, policy=policy)
    assert other.calls


def test_a_date_in_the_prompt_is_part_of_the_key(tmp_path: Path) -> None:
    asked = []
    for day in (date(2026, 1, 1), date(2026, 1, 1), date(2026, 1, 2)):
        policy = other_tokenizer(lambda tokenizer: setattr(tokenizer, "chat_template", DATED))
        set_day(policy.tokenizer, day)
        engine = ScriptedEngine(reply)
        suite(tmp_path).evaluate(engine, policy=policy)
        asked.append(bool(engine.calls))
    assert asked == [True, False, True]


def test_what_decides_a_verdict_gives_new_verdicts_on_the_same_responses(tmp_path: Path) -> None:
    suite(tmp_path).evaluate(ScriptedEngine(reply), policy=W)
    items = tuple(replace(item, answer="no number") for item in benchmark("sum", "math", 5).items)
    corrected = Generated(source=(replace(benchmark("sum", "math", 5), items=items), benchmark("order", "general", 4)))
    general = {**DEFINITIONS, "sum": {"group": "general", "kind": "mathematics"}}
    for changes, column, right in (({"source": corrected}, "MATH AVG", 0.0), ({"definitions": general}, "sum", 100.0)):
        engine = ScriptedEngine(reply)
        table = suite(tmp_path, **changes).evaluate(engine, policy=W).scores.table()
        assert engine.calls == []
        assert table[column]["greedy"] == right
    assert "MATH AVG" not in table


def test_without_a_policy_nothing_is_kept_or_found(tmp_path: Path) -> None:
    suite(tmp_path).evaluate(ScriptedEngine(reply))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("lives", range(1, 4))
def test_k_repeats_are_k_samples_also_after_a_kill(tmp_path: Path, lives: int) -> None:
    def numbered(prompt: Prompt, sample: int) -> str:
        return rf"{prompt.user}: \boxed{{{sample}}}"

    eight = Protocol(sampled=["sum"], k=8, temperature=1.0, max_tokens=64)
    engine = DyingEngine(lives, script=numbered)
    with pytest.raises(Killed):
        suite(tmp_path, tasks=["sum"], protocol=eight).evaluate(engine, policy=W)
    suite(tmp_path, tasks=["sum"], protocol=eight).evaluate(ScriptedEngine(numbered), policy=W)
    kept = [json.loads(path.read_bytes())["texts"] for path in tmp_path.rglob("sum-sampled-*/responses_*.json")]
    assert [len(set(texts)) for call in kept for texts in call] == [8] * 5


def test_an_empty_line_ends_no_response(tmp_path: Path) -> None:
    """Few-shot delimiters as stops would cut reasoning; a definition cannot bring them in either."""
    engine = ScriptedEngine(lambda prompt, sample: "First this.\n\n\nThen\n\n" + reply(prompt, sample))
    assert suite(None, tasks=["order"]).evaluate(engine, policy=W).scores.table()["order"]["greedy"] == 100
    cut = {**DEFINITIONS["order"], "generation_kwargs": {"until": [";"]}}
    with pytest.raises(ValueError, match=r"definitions\.order: .*generation_kwargs"):
        suite(None, definitions={**DEFINITIONS, "order": cut})


def test_lm_eval_result_files_are_lm_evals_own(tmp_path: Path) -> None:
    from lm_eval.utils import make_table

    for _ in range(2):
        harness = suite(tmp_path)
        harness.write_lm_results(harness.evaluate(ScriptedEngine(reply), policy=W))
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
    suite(None).evaluate(ScriptedEngine(reply), policy=W)
    assert before == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())  # type: ignore[index]


def test_prompts_over_the_context_are_wrong_and_reported() -> None:
    long = replace(benchmark("sum", "math", 5).items[0], question="sum" + " of many" * 30 + " 0")
    items = (long, *benchmark("sum", "math", 5).items[1:])
    source = Generated(source=(replace(benchmark("sum", "math", 5), items=items), benchmark("order", "general", 4)))
    policy: Any = NamedPolicy(longest=80)
    found = suite(None, source=source).evaluate(ScriptedEngine(reply), policy=policy)
    assert found.scores.table()["sum"]["greedy"] == 80
    assert {name: notes.too_long for name, notes in found.notes.items()} == {"sum": 1, "order": 0}


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
    found = suite(folder).evaluate(CuttingEngine(reply), policy=W)
    assert found.notes["sum"].truncated == {"greedy": 0.0, "sampled": 0.2}
    assert found.notes["order"].truncated == {"greedy": 0.0}
    if kept:
        for path in tmp_path.rglob("score_*.json"):
            path.unlink()
        assert suite(folder).evaluate(DyingEngine(0), policy=W).notes == found.notes, "told by kept responses too"


def test_truncated_answers_can_be_wrong_whatever_they_box(tmp_path: Path) -> None:
    """Item 0's four samples are right and cut: (100 + 25 + 100 + 25 + 100) / 5, then the first is 0."""
    read = Protocol(sampled=["sum"], k=4, temperature=1.0, max_tokens=64)
    first = suite(tmp_path, protocol=read).evaluate(CuttingEngine(reply), policy=W)
    strict = suite(tmp_path, protocol=replace(read, truncated="wrong"))
    found = strict.evaluate(DyingEngine(0), policy=W)  # the same responses, judged otherwise
    rows = [evaluation.scores.table()["sum"] for evaluation in (first, found)]
    assert [row["mean@k"] for row in rows] == [70, 50]
    assert [row["sampled well-formed"] for row in rows] == [100, 80]
    assert [row["greedy"] for row in rows] == [100, 100]
    assert found.notes == first.notes, "how many were cut is known all the same"
    with pytest.raises(ValueError, match=r"benchmarks\.protocol\.truncated must be read or wrong, got 'cut'"):
        replace(read, truncated="cut")  # type: ignore[arg-type]


def test_the_authors_mean_is_one_greedy_answer_repeated() -> None:
    protocol = Protocol(sampled=["sum"], k=32, temperature=0.0, max_tokens=64)
    engine = ScriptedEngine(lambda prompt, sample: reply(prompt, 0))
    scores = suite(None, tasks=["sum"], protocol=protocol).evaluate(engine, policy=W).scores
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
