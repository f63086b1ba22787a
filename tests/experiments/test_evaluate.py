"""The evaluate, compare and analyse commands: composed, run on tiny suites, resumed, refused with one message."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from evaluation import reasoning
from evaluation.harness import HarnessSuite
from evaluation.sources import ReasoningGym
from experiments import PROJECT, analyse, compare, evaluate
from experiments.command_line import WRONG
from experiments.reporting.data import read_run
from experiments.resolvers import register_resolvers
from rzero.grading import ExactGrader
from rzero.prompts import Prompts
from rzero.voting import PaperVote
from tests.experiments.runs import finished_run

GRADER = ExactGrader(max_chars=2000)
SUITES = sorted(path.stem for path in (PROJECT / "conf" / "benchmarks").glob("[a-z]*.yaml"))
TEN = {"amc23", "minerva", "math500", "gsm8k", "olympiadbench", "aime24", "aime25", "mmlu_pro", "supergpqa", "bbeh"}
TINY = (
    "benchmarks.source.source.items=2",
    "benchmarks.protocol.k=2",
    "benchmarks.tasks=[sum, order]",
    "grader=exact",
)


def composed(suite: str, *overrides: str) -> Any:
    register_resolvers()
    with initialize_config_dir(config_dir=str(PROJECT / "conf"), version_base="1.3"):
        return compose("config", overrides=[f"benchmarks={suite}", *overrides]).benchmarks


@pytest.mark.parametrize("suite", SUITES)
def test_every_suite_composes(suite: str) -> None:
    cfg = composed(suite)
    assert cfg["_partial_"] is True


def test_the_paper_suite_holds_the_ten_benchmarks_and_samples_where_the_paper_does() -> None:
    for suite in ("paper", "official"):
        cfg = composed(suite)
        assert set(cfg.tasks) == TEN
        assert (set(cfg.protocol.sampled), cfg.protocol.k) == ({"amc23", "aime24", "aime25"}, 32)
        pinned = {name: dataset.revision for name, dataset in cfg.source.hub.items() if name != "bbeh"}
        assert set(pinned) == TEN - {"bbeh"}
        assert all(len(revision) == 40 for revision in pinned.values())
    assert composed("paper").protocol.temperature > 0
    assert composed("official").protocol.temperature == 0


def test_a_suite_is_built_the_way_a_run_builds_it(tmp_path: Path) -> None:
    (tmp_path / "amc23.jsonl").write_text('{"id": "1", "problem": "one plus one", "answer": "2"}\n')
    cfg = composed("math", "benchmarks.tasks=[amc23]", f"benchmarks.source.data_dir={tmp_path}")
    prompts = Prompts(challenger_system="", challenger_user="x", solver_system="", solver_user="{question}")
    suite = instantiate(cfg, prompts=prompts, grader=GRADER, vote=PaperVote(GRADER))()
    assert isinstance(suite, HarnessSuite)
    assert [item.question for item in suite.benchmarks[0].items] == ["one plus one"]
    assert {decoding: sampling.max_tokens for decoding, sampling in suite.samplings["amc23"].items()} == {
        "greedy": 4096,
        "sampled": 4096,
    }


def test_the_ten_benchmarks_have_the_token_limits_of_the_paper() -> None:
    definitions = composed("paper").definitions
    assert set(definitions) == TEN
    assert {(entry.group, entry.max_tokens) for entry in definitions.values()} == {("math", 4096), ("general", 8192)}


def test_reasoning_gym_families_are_enough_and_pinned() -> None:
    cfg = composed("reasoning_gym")
    source: ReasoningGym = instantiate(cfg.source, _convert_="all")
    assert len(cfg.tasks) >= 12
    assert list(cfg.tasks) == list(cfg.definitions)
    assert set(cfg.tasks) == {f"gym_{family}" for family in source.families} == set(cfg.protocol.sampled)
    assert set(source.families) <= set(reasoning.FAMILIES)
    with pytest.raises(ValueError, match="family must be one of"):
        reasoning.FamilySpec(family="countdown", size=1, seed=0, knobs={})


def test_reasoning_gym_missing_is_said_clearly(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: str) -> str:
        raise reasoning.PackageNotFoundError

    monkeypatch.setattr(reasoning, "version", missing)
    with pytest.raises(ImportError, match=r"pip install reasoning-gym==0\.1\.25"):
        reasoning.library()
    monkeypatch.setattr(reasoning, "version", lambda _: "0.1.20")
    with pytest.raises(ImportError, match="generates other questions"):
        reasoning.library()


@pytest.mark.slow
def test_reasoning_gym_ceiling() -> None:
    """The gold answer of every family in a box is right, and nonsense is not."""
    pytest.importorskip("reasoning_gym")
    from evaluation.judging import Judge, NoFallback

    judge = Judge(grader=GRADER, vote=PaperVote(GRADER), reading="boxed", fallback=NoFallback())
    source: ReasoningGym = instantiate(composed("reasoning_gym", "benchmarks.source.size=10").source, _convert_="all")
    for family in source.families:
        rows = source.documents(f"gym_{family}", kind="procedural")
        assert rows == source.documents(f"gym_{family}", kind="procedural"), "same seed, same questions"
        for row in rows:
            judged = judge(row, [f"\\boxed{{{row['answer']}}}", "\\boxed{perhaps not}", ""])
            assert judged.right == (True, False, False), row["id"]


MINE = """
from evaluation.problems import Benchmark, BenchmarkItem

def doubles(*, items):
    rows = (BenchmarkItem(id=f"doubles-{n}", question=f"Compute {n} + {n}.", answer=str(2 * n)) for n in range(items))
    return [Benchmark(name="doubles", group="general", items=tuple(rows))]
"""
MY_SUITE = """
defaults: [_harness, _self_]
definitions:
  doubles: {group: general, kind: mathematics, max_tokens: 48}
source:
  _target_: evaluation.sources.Generated
  source: {_target_: my_doubles.doubles, items: 3}
protocol: {sampled: [doubles], k: 2, temperature: 1.0}
"""


def test_a_benchmark_of_ones_own_folder_is_evaluated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One class and one YAML outside the repository; nothing is registered."""
    (tmp_path / "my_doubles.py").write_text(MINE)
    (tmp_path / "conf" / "benchmarks").mkdir(parents=True)
    (tmp_path / "conf" / "benchmarks" / "mine.yaml").write_text(MY_SUITE)
    monkeypatch.syspath_prepend(str(tmp_path))
    own = [f"hydra.searchpath=[file://{tmp_path}/conf]", "benchmarks=mine", "prompts=micro", "grader=exact"]
    assert evaluate.main([*own, f"directory={tmp_path}/out"]) == 0
    [scores] = (tmp_path / "out" / "scores").glob("doubles_*.json")
    [benchmark] = json.loads(scores.read_text())["scores"]["benchmarks"]
    assert benchmark["id"] == ["doubles-0", "doubles-1", "doubles-2"]
    assert "truncated" in capsys.readouterr().out


def test_what_is_known_of_a_checkpoint_is_said_and_its_date_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another template, other responses; the same one again, none; and truncated shares beside each score."""
    dated, plain = tmp_path / "dated", PROJECT / "experiments" / "models" / "micro"
    shutil.copytree(plain, dated)
    template = (plain / "chat_template.jinja").read_text()
    (dated / "chat_template.jinja").write_text("{{ strftime_now('%d') }}" + template)
    out = tmp_path / "out"
    out.mkdir()
    (out / "date.txt").write_text("2026-01-31")
    arguments = [*TINY, "benchmarks.protocol.max_tokens=3", f"policy={plain},{dated}", f"directory={out}"]
    assert evaluate.main(arguments) == 0
    shown = capsys.readouterr().out
    assert "note: policy, date: the chat template shows the date; it is 2026-01-31" in shown
    assert "truncated" in (out / "table.md").read_text()
    assert (out / "table.md").read_text().count("100\\.0 / 100\\.0") == 4
    assert len(list((out / "scores").iterdir())) == 2
    responses = sorted(out.rglob("responses_*.json"))
    assert len(responses) == 2 * 2 * 2, "two checkpoints of the same weights, two tasks, two decodings"
    kept = {path: path.stat().st_mtime_ns for path in responses}
    assert evaluate.main(arguments) == 0
    assert {path: path.stat().st_mtime_ns for path in sorted(out.rglob("responses_*.json"))} == kept
    (out / "date.txt").write_text("tomorrow")
    assert evaluate.main(arguments) == WRONG


@pytest.mark.slow
def test_checkpoints_are_evaluated_into_one_table_and_never_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = str(PROJECT / "experiments" / "models" / "micro")
    arguments = [*TINY, f"policy=micro,{base}", f"directory={tmp_path}"]
    assert evaluate.main(arguments) == 0
    shown = capsys.readouterr().out
    assert "Overall AVG" in shown
    assert "overall" in (tmp_path / "table.md").read_text()
    [scores] = (tmp_path / "scores").glob("*.json")
    first = json.loads(scores.read_text())
    assert list((tmp_path / "evaluations" / "lm_eval" / "greedy").glob("*/results_*.json"))
    responses = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("responses_*.json")}
    assert evaluate.main(arguments) == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("responses_*.json")} == responses
    assert json.loads(scores.read_text()) == first


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["policy=./nowhere", *TINY], "does not exist"),
        (["benchmarks=nonsense"], "Could not find 'benchmarks/nonsense'"),
        (["benchmarks=math", "benchmarks.source.data_dir=/nowhere"], "has no amc23.jsonl"),
    ],
)
def test_what_is_wrong_is_said_in_one_message(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate.main([*arguments, f"directory={tmp_path}"]) == WRONG
    assert message in capsys.readouterr().err.replace("\n", " ")


def test_runs_are_compared_with_the_paper(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = finished_run(tmp_path / "run")
    assert compare.main([str(run.path), "--model", "models/Qwen3-4B-Base"]) == 0
    [data] = json.loads((run.path / "compare.json").read_text())
    assert data["paper"]["base"]["Overall AVG"] == 27.10
    assert data["paper"]["round 3"]["MATH AVG"] == 49.07
    assert [iteration["name"] for iteration in data["iterations"]] == ["base", "iteration 1", "iteration 2"]
    assert data["iterations"][1]["gain"]["low"] <= data["iterations"][1]["gain"]["points"]
    assert (run.path / "compare.png").stat().st_size > 5000
    assert "+" in capsys.readouterr().out
    assert compare.main([str(tmp_path / "nothing")]) == 2
    assert compare.paper_rows("some/other-model") == {}


def test_a_run_on_a_local_copy_is_compared_with_the_paper_wherever_the_copy_was(tmp_path: Path) -> None:
    """What stands for the folder is not looked up: it need not exist here."""
    run = finished_run(tmp_path / "run", policy={"path_or_id": "${nowhere:}/models/Qwen3-4B-Base"})
    assert compare.main([str(run.path)]) == 0
    [data] = json.loads((run.path / "compare.json").read_text())
    assert data["paper"]["base"]["Overall AVG"] == 27.10


def test_analyses_of_a_run_without_generating_anything(tmp_path: Path) -> None:
    conf = {"grader": {"_target_": "rzero.grading.ExactGrader", "max_chars": 500}}
    prompts = {"challenger_system": "", "challenger_user": "x", "solver_system": "", "solver_user": "{question}"}
    suite: dict[str, object] = {"_target_": "tests.experiments.test_evaluate.KnownSuite", "_partial_": True}
    run = finished_run(
        tmp_path / "run", **conf, prompts={"_target_": "rzero.prompts.Prompts", **prompts}, benchmarks=suite
    )
    assert analyse.main([str(run.path), "--no-matrix", "--n", "4"]) == 0
    data = json.loads((run.path / "analyses.json").read_text())
    assert data["matrix"] == []
    assert data["diversity"]["iteration 1"]["questions"] > 5
    assert set(data["contamination"]) == {"iteration 1", "iteration 2"}
    assert (run.path / "pass_at_k.png").is_file()


def test_a_benchmark_question_among_the_examples_of_a_prompt_is_reported(tmp_path: Path) -> None:
    """lm-evaluation-harness#4145: what is tested must not be shown with its answer."""
    prompts = {
        "_target_": "rzero.prompts.Prompts",
        "challenger_system": "",
        "challenger_user": "x",
        "solver_system": "",
    }
    shown = {**prompts, "solver_user": "What is 2 + 2?\nassistant: 4\nuser: {question}"}
    run = read_run(finished_run(tmp_path / "run", prompts=shown).path)
    [found] = analyse.of_prompts(run, KnownSuite().benchmarks, n=4)
    assert (found["benchmark"], found["overlapping"]) == ("b", 1)


class KnownSuite:
    """A suite that only knows its questions."""

    def __init__(self, **_: object) -> None:
        from evaluation.problems import Benchmark, BenchmarkItem

        item = BenchmarkItem(id="1", question="What is 2 + 2?", answer="4")
        self.benchmarks = (Benchmark(name="b", group="math", items=(item,)),)
