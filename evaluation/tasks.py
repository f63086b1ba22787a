"""Benchmarks as tasks of lm-eval: which documents are asked, and how the responses to each are judged."""

from __future__ import annotations

import functools
import logging
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import get_args

from datasets import Dataset
from lm_eval.api import task as lm_eval_task
from lm_eval.api.model import LM
from lm_eval.evaluator import evaluate

from evaluation.judging import KINDS, Document, Judge, Judged
from evaluation.problems import Benchmark, BenchmarkGroup, BenchmarkItem
from evaluation.sources import DocumentSource
from rzero.types import Json

METRICS = tuple(Judged(answers=(None,), right=(False,), majority=False).metrics())
VERSION = 1.0
"""The tasks' version in lm-eval's result files."""
logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it explains at length what is meant here


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """Everything about a benchmark but its questions.

    group: MATH AVG (`math`) or Overall AVG directly (`general`), whichever it counts towards. kind: how its answers
    are read and compared (`evaluation.judging.KINDS`). max_tokens: limit of a response; None: the protocol has one.
    """

    group: BenchmarkGroup
    kind: str
    max_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.group not in get_args(BenchmarkGroup):
            raise ValueError(f"group must be math or general, got {self.group!r}")
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {self.kind!r}")


class BenchmarkTask:
    """A benchmark with its documents, which are loaded when it is built.

    Raises ValueError for a benchmark without a question or with two of one id, and `DataNotFoundError` where its
    questions cannot be had.
    """

    def __init__(self, name: str, definition: Definition, *, source: DocumentSource, judge: Judge) -> None:
        self.name, self.definition, self.judge = name, definition, judge
        self.documents: Sequence[Document] = source.documents(name, kind=definition.kind)
        if not self.documents:
            raise ValueError(f"benchmark {name} has no question")
        if len({document["id"] for document in self.documents}) != len(self.documents):
            raise ValueError(f"benchmark {name}: two questions have one id")
        self._judged: dict[str, Judged] = {}
        with _undisturbed():
            self._task = lm_eval_task.ConfigurableTask(config=self._config())

    @property
    def benchmark(self) -> Benchmark:
        """The questions with their first gold answers."""
        items = tuple(
            BenchmarkItem(id=row["id"], question=row["question"], answer=row["answer"], level=row["level"])
            for row in self.documents
        )
        return Benchmark(name=self.name, group=self.definition.group, items=items)

    def run(self, lm: LM, *, repeats: int, generation: Json) -> tuple[Mapping[str, Judged], Json]:
        """lm-eval's evaluation with `repeats` responses to each document: what was judged, by id, and its results.

        generation: lm-eval's generation_kwargs, for its record; how responses are drawn is the business of `lm`.
        """
        self._judged = {}
        self._task.set_config("repeats", repeats)
        self._task.set_config("generation_kwargs", generation)
        with _undisturbed():
            results: Json = evaluate(lm=lm, task_dict={"tasks": {self.name: self._task}})
        return self._judged, results

    def _config(self) -> Json:
        # plain functions, not methods: lm-eval copies its configuration deeply, and a method's object with it
        def dataset(**_: object) -> dict[str, Dataset]:
            return {"test": Dataset.from_list(list(self.documents))}

        def process(document: Document, responses: Sequence[Sequence[str]]) -> dict[str, float]:
            judged = self._judged[document["id"]] = self.judge(document, responses[0])
            return judged.metrics()

        return {
            "task": self.name,
            "custom_dataset": dataset,
            "test_split": "test",
            "output_type": "generate_until",
            "doc_to_text": "question",  # the request around it is conf/prompts, put on by the engine like in training
            "doc_to_target": "answer",
            "num_fewshot": 0,
            "process_results": process,
            "filter_list": [{"name": "all", "filter": [{"function": "custom", "filter_fn": _keep_all}]}],
            "metric_list": [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in METRICS],
            "generation_kwargs": {"until": []},
            "metadata": {"version": VERSION, "group": self.definition.group},
        }


def _keep_all(responses: Sequence[Sequence[str]], documents: Sequence[Document]) -> Sequence[Sequence[str]]:
    """The filter: lm-eval's own would drop all responses but the first."""
    return responses


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Keep two side effects of lm-eval in: it draws from Python's global generator (a random task name each time one is
    asked for), and it draws a progress bar for every task across our own. It has a switch for neither.
    """
    bar, state = lm_eval_task.tqdm, random.getstate()
    lm_eval_task.tqdm = functools.partial(bar, disable=True)
    try:
        yield
    finally:
        lm_eval_task.tqdm = bar
        random.setstate(state)
