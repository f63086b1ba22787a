"""Real benchmark rows and model outputs, where they are on this machine: the gold answer is right, anything else is
not, and published accuracies come out.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from evaluation.judging import Judge, NoFallback
from evaluation.sources import Datasets
from experiments.conformance.presets import preset
from rzero.voting import PaperVote

SHARED = Path(__file__).resolve().parents[3] / "shared"
KINDS = {
    "math500": "mathematics",
    "gsm8k": "mathematics",
    "aime24": "mathematics",
    "amc23": "mathematics",
    "minerva": "mathematics",
    "bbeh": "phrase",
    "mmlu_pro": "option",
    "supergpqa": "option",
}


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    with preset("grader/default") as grader:
        yield Judge(grader=grader, vote=PaperVote(grader), reading="boxed", fallback=NoFallback())


@pytest.mark.parametrize("benchmark", KINDS)
def test_gold_answers_are_right_and_wrong_and_empty_ones_are_not(benchmark: str, judge: Judge) -> None:
    """All rows: 100 % with the gold answer in a box, 0 % with a wrong one, 0 % with none."""
    folder = SHARED / "benchmarks"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not on this machine")
    rows = Datasets(hub={}, data_dir=str(folder)).documents(benchmark, kind=KINDS[benchmark])
    assert len(rows) >= 30
    missed, accepted = [], []
    for row in rows:
        gold = row["answer"]
        wrong = chr(ord("A") + (ord(gold) - ord("A") + 1) % max(2, row["options"])) if row["options"] else "271828.18"
        judged = judge(row, [f"So the answer is $\\boxed{{{gold}}}$.", f"\\boxed{{{wrong}}}", "\\boxed{}", "", "hm"])
        missed += [] if judged.right[0] else [row["id"]]
        accepted += [row["id"]] if any(judged.right[1:]) else []
    assert (missed, accepted) == ([], [])


def test_published_accuracies_come_out(judge: Judge) -> None:
    """Every complete published file of outputs, within half a point of its accuracy after the named label errors."""
    path = SHARED / "outputs" / "real_outputs.jsonl"
    if not path.is_file():
        pytest.skip(f"{path} is not on this machine")
    lines = path.read_bytes().split(b"\n")
    found: dict[tuple[str, str], list[tuple[bool, bool]]] = defaultdict(list)
    stated = Judge(grader=judge.grader, vote=judge.vote, reading="stated", fallback=NoFallback())
    for row in (json.loads(line) for line in lines if line):
        if row["sampling"] == "full":
            published = bool(row.get("adjudicated_verdict", row["published_verdict"]))
            document = {"id": row["id"], "kind": "mathematics", "answers": [row["gold"]], "options": 0, "entry": ""}
            found[row["source"], row["task"]].append((stated(document, [row["response"]]).right[0], published))
    assert len(found) >= 8
    for name, verdicts in found.items():
        ours, published = (100 * sum(column) / len(verdicts) for column in zip(*verdicts, strict=True))
        assert abs(ours - published) <= 0.5, name
