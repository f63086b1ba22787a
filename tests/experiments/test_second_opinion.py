"""A larger model's answers to kept questions: by hand, through the command, and out of reach of any run."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from experiments import second_opinion
from experiments.compose import compose
from experiments.second_opinion import Asking
from rzero.grading.exact_grader import ExactGrader
from rzero.prompts import Prompts
from rzero.runs.directory import RunDirectory
from rzero.types import LabelledQuestion, Prompt, Sampling, Vote
from tests.experiments.runs import finished_run
from tests.scripted import ScriptedEngine
from tests.test_architecture import SOURCES, imports, module

PROMPTS = Prompts(challenger_system="", challenger_user="x", solver_system="S", solver_user="{question}")


def question(index: int, text: str, label: str, *, kept: bool = True, iteration: int = 2) -> LabelledQuestion:
    vote = Vote(label=label, count=3, divisor=6, counts=((label, 3),), answers=(label,) * 3)
    reason = None if kept else "below_band"
    return LabelledQuestion(
        iteration=iteration, index=index, question=text, challenger_answer=label, vote=vote, drop_reason=reason
    )


def reply(prompt: Prompt, sample: int) -> str:
    """`one`: 7, 7, 7, 7 and 8; `two`: five answers of which 1 is the most frequent; `three`: no box at all."""
    answers = {"one": "77778", "two": "12341", "three": "", "four": "99999"}[prompt.user]
    return rf"So \boxed{{{answers[sample]}}}" if answers else "I do not know."


def test_an_opinion_by_hand() -> None:
    asking = Asking(
        prompts=PROMPTS,
        grader=ExactGrader(max_chars=100),
        questions=50,
        sampling=Sampling(n=5, temperature=0.6, max_tokens=64, seed=0),
    )
    labelled = [
        question(0, "one", "7"),  # right, and sure: four of five
        question(1, "two", "1"),  # right, two of five
        question(2, "three", "5"),  # nobody knows
        question(3, "four", "5"),  # wrong, and sure
        question(4, "four", "9", kept=False),
        question(0, "four", "9", iteration=1),  # replayed
    ]
    found = asking.opinion(ScriptedEngine(reply), labelled, iteration=2)
    assert (found.asked, found.accuracy, found.sure, found.accuracy_sure) == (4, 2 / 4, 2, 1 / 2)
    assert list(found.labels) == [
        (0, "7", "7", 4, True),
        (1, "1", "1", 2, True),
        (2, "5", None, 0, False),
        (3, "5", "9", 5, False),
    ]


def test_the_same_questions_are_asked_whenever_they_are() -> None:
    sampling = Sampling(n=5, temperature=0.6, max_tokens=64, seed=0)
    asking = Asking(prompts=PROMPTS, grader=ExactGrader(max_chars=100), questions=3, sampling=sampling)
    labelled = [question(index, "one", "7") for index in range(40)]
    chosen = asking.chosen(labelled, iteration=2)
    assert [q.index for q in chosen] == [q.index for q in asking.chosen(labelled, iteration=2)]
    assert len({q.index for q in chosen}) == 3


TINY = [
    *("policy=micro", "prompts=micro", "engine=embedded", "grader=exact", "threads=1"),
    *("questions=2", "votes=2", "sampling.max_tokens=4"),
]


def test_the_command_writes_its_own_file_and_no_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = finished_run(tmp_path / "run", seed=0).path
    before = {path: hashlib.sha256(path.read_bytes()).digest() for path in run.rglob("*") if path.is_file()}
    assert second_opinion.main([str(run), *TINY]) == 0
    assert "run, iteration 2: 0.0 % of 2 pseudo-labels are the larger model's answer" in capsys.readouterr().out
    assert {path: hashlib.sha256(path.read_bytes()).digest() for path in before} == before
    [new] = [path for path in run.rglob("*") if path.is_file() and path not in before]
    assert new == RunDirectory(run).second_opinion
    data = json.loads(new.read_text())
    assert (data["settings"]["policy"], set(data["iterations"])) == ("micro", {"1", "2"})
    assert str(tmp_path) not in new.read_text()
    written = new.stat().st_mtime_ns
    assert second_opinion.main([str(run), *TINY]) == 0
    assert new.stat().st_mtime_ns == written, "asked once"
    assert second_opinion.main([str(run), *TINY, "votes=0"]) == 2


def test_the_model_is_one_of_the_configured_kind() -> None:
    cfg = compose(config="second_opinion")
    assert (cfg.questions, cfg.votes) == (50, 5)
    assert cfg.policy.lora is None
    assert len(cfg.policy.package.parts) == 22
    assert cfg.policy.architecture.hidden_size == cfg.policy.architecture.num_attention_heads * 128


def test_no_run_can_read_an_opinion() -> None:
    """Neither the method nor what composes a run knows the command or asks where its file lies."""
    readers = {
        module(path)
        for path in SOURCES
        if "experiments.second_opinion" in imports(path) or ".second_opinion" in path.read_text(encoding="utf-8")
    }
    assert not {name for name in readers if name.startswith(("rzero.", "evaluation."))} - {"rzero.runs.directory"}
    assert "experiments.run" not in readers
    assert "experiments.composition" not in readers
