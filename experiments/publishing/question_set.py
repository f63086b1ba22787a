"""The question set of a run: what its Solvers were trained on, as Parquet, without what benchmarks ask."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import datasets
from hydra.utils import instantiate

from evaluation.contamination import words
from experiments.recipe import modern
from experiments.reporting.data import Run
from rzero.escaping import valid_unicode
from rzero.types import LabelledQuestion
from rzero.voting import PaperVote

Words: TypeAlias = tuple[str, ...]

START = 4
"""Words by which a benchmark's question is found inside a longer text."""

FILE = "data/train-00000-of-00001.parquet"
"""As the hub names the files of a split."""

MEANINGS = {
    "problem": "the question, as the Challenger posed it",
    "answer": "the pseudo-label: the Solver's majority answer",
    "score": "the agreement: share of the votes that gave the answer",
    "iteration": "in which it was posed",
    "index": "which candidate of the iteration it was",
    "challenger_answer": "the Challenger's own answer; it decides nothing",
    "votes_for": "votes that gave the answer",
    "votes": "all votes",
}
"""Columns; the first three as R-Zero's own trainer reads them."""

_FEATURES = datasets.Features(
    {
        "problem": datasets.Value("string"),
        "answer": datasets.Value("string"),
        "score": datasets.Value("float64"),
        "iteration": datasets.Value("int32"),
        "index": datasets.Value("int32"),
        "challenger_answer": datasets.Value("string"),
        "votes_for": datasets.Value("int32"),
        "votes": datasets.Value("int32"),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionSet:
    """The kept questions of a run up to an iteration. left_out: how many more repeat a benchmark's question."""

    questions: tuple[LabelledQuestion, ...]
    left_out: int

    def write(self, folder: Path) -> None:
        """Writes the Parquet file below `folder`. Texts stay what they are, but for halves of characters."""
        path = folder / FILE
        path.parent.mkdir(parents=True)
        rows = [_row(question) for question in self.questions]
        datasets.disable_progress_bars()
        datasets.Dataset.from_list(rows, features=_FEATURES).to_parquet(path)


def question_set(run: Run, *, until: int, data_dir: Path | None) -> QuestionSet:
    """Returns what was kept up to an iteration, apart from questions in which one of a benchmark stands word for word.

    Raises ValueError when the run's benchmarks can be read neither here nor from the hub: nobody knows then.
    """
    asked = _by_start(_benchmark_questions(run, data_dir))
    kept = [q for it in run.trained if it.number <= until for q in it.questions if q.kept and q.vote]
    own = tuple(question for question in kept if not _repeats(question.question, asked))
    return QuestionSet(questions=own, left_out=len(kept) - len(own))


def _benchmark_questions(run: Run, data_dir: Path | None) -> set[Words]:
    config = modern(run.config)
    if data_dir is not None:
        config.benchmarks.source.data_dir = str(data_dir)
    with closing(instantiate(config.grader)) as grader:
        parts = {"prompts": instantiate(config.prompts), "grader": grader, "vote": PaperVote(grader)}
        suite = instantiate(config.benchmarks, **parts)()
    return {tuple(words(item.question)) for benchmark in suite.benchmarks for item in benchmark.items}


def _by_start(asked: set[Words]) -> dict[Words, list[Words]]:
    """The questions by their first words, so that each place of a text is compared with few of them."""
    found: dict[Words, list[Words]] = defaultdict(list)
    for item in asked:
        found[item[:START]].append(item)
    return found


def _repeats(text: str, asked: Mapping[Words, Sequence[Words]]) -> bool:
    """Whether a benchmark's question stands in the text; one of fewer words than `START` has to be all of it."""
    own = tuple(words(text))
    if own in asked.get(own[:START], ()):
        return True
    places = ((at, item) for at in range(len(own)) for item in asked.get(own[at : at + START], ()))
    return any(own[at : at + len(item)] == item for at, item in places if len(item) >= START)


def _row(question: LabelledQuestion) -> dict[str, str | int | float | None]:
    vote = question.vote
    assert vote is not None
    return {
        "problem": valid_unicode(question.question),
        "answer": None if vote.label is None else valid_unicode(vote.label),
        "score": vote.agreement,
        "iteration": question.iteration,
        "index": question.index,
        "challenger_answer": None if question.challenger_answer is None else valid_unicode(question.challenger_answer),
        "votes_for": vote.count,
        "votes": vote.divisor,
    }
