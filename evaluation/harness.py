"""The evaluation harness: our lm-eval tasks, asked through a rollout engine under a protocol, resumable at every call.

suite = HarnessSuite(tasks=["math500", "aime24"], source=..., protocol=..., ...)
scores = suite.evaluate(engine)
"""

from __future__ import annotations

import functools
import logging
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation import lm_results
from evaluation.engine_lm import EngineLM, Fits
from evaluation.judging import Fallback, Judge, Judged
from evaluation.metrics import BenchmarkScore, Outcome, Scores
from evaluation.problems import Benchmark, BenchmarkItem
from evaluation.protocol import Decoding, Protocol
from evaluation.reading import Reading
from evaluation.remote_judge import NoRemoteJudge, RemoteJudge, Review
from evaluation.sources import DocumentSource
from evaluation.store import TaskStore, code_hash, digest, fingerprint
from evaluation.tasks.functions import evaluating
from rzero.interfaces import Grader, RolloutEngine, VoteRule
from rzero.prompts import Prompts

TASKS = Path(__file__).parent / "tasks"
logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it explains at length what is meant here


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What an evaluation found besides its scores, by benchmark: prompts over the context (counted as wrong),
    completions cut by the token limit, and what a remote judge would have upgraded (never part of the scores)."""

    too_long: Mapping[str, int]
    truncated: Mapping[str, int]
    reviews: Mapping[str, Review]


class HarnessSuite:
    """A `BenchmarkSuite` of lm-eval tasks (files of evaluation/tasks), loaded when it is built.

    folder: where responses, scores and lm-eval's result files are kept (None: nowhere, and nothing can be resumed).
    Raises ValueError for an unknown task and `DataNotFoundError` where a task's questions cannot be had.
    """

    def __init__(
        self,
        *,
        tasks: Sequence[str],
        source: DocumentSource,
        protocol: Protocol,
        reading: Reading,
        fallback: Fallback,
        prompts: Prompts,
        grader: Grader,
        vote: VoteRule,
        folder: str | None,
        completions_per_call: int,
        remote_judge: RemoteJudge | NoRemoteJudge,
    ) -> None:
        self.source, self.protocol, self.prompts, self.remote_judge = source, protocol, prompts, remote_judge
        self.judge = Judge(grader=grader, vote=vote, reading=reading, fallback=fallback)
        self.folder = None if folder is None else Path(folder)
        self.completions_per_call = completions_per_call
        self.judging = digest(
            [code_hash(), reading, _described(fallback), _described(remote_judge), type(grader).__name__]
        )
        self.tasks = self._load(tasks)
        self.benchmarks = tuple(_benchmark(task) for task in self.tasks.values())
        self.report = Report(too_long={}, truncated={}, reviews={})

    def _load(self, names: Sequence[str]) -> dict[str, Any]:
        from lm_eval.tasks import TaskManager

        manager = TaskManager(include_path=str(TASKS), include_defaults=False)
        if unknown := [name for name in (*names, *self.protocol.sampled) if name not in manager.all_subtasks]:
            raise ValueError(f"no task {', '.join(unknown)}; there is {', '.join(manager.all_subtasks)}")
        with evaluating(source=self.source, judge=self.judge), _undisturbed():
            return {name: manager.load([name])["tasks"][name] for name in names}

    def evaluate(
        self,
        engine: RolloutEngine,
        *,
        progress: Callable[[int, int], None] | None = None,
        weights: str | None = None,
        fits: Fits | None = None,
        on_call: Callable[[str, int, int], None] | None = None,
    ) -> Scores:
        """Ask `engine` everything that has not been asked of these weights before.

        progress(done, total) counts benchmarks; on_call(what, done, total) the documents of one. weights: a hash of the
        model (`Policy.weights_hash`); None takes it from what the engine says. fits: see `EngineLM`.
        """
        weights = weights or fingerprint(engine)
        found, reports = [], []
        for name in self.tasks:
            score, notes = self._score(name, engine, weights=weights, fits=fits, on_call=on_call)
            found.append(score)
            reports.append(notes)
            if progress:
                progress(len(found), len(self.tasks))
        self.report = Report(
            too_long={name: notes["too_long"] for name, notes in zip(self.tasks, reports, strict=True)},
            truncated={name: notes["truncated"] for name, notes in zip(self.tasks, reports, strict=True)},
            reviews={name: Review(**n["review"]) for name, n in zip(self.tasks, reports, strict=True) if n["review"]},
        )
        self._write_lm_results(weights, reports)
        k = self.protocol.k if set(self.protocol.sampled) & set(self.tasks) else 1
        return Scores(k=k, headline=tuple(self.protocol.headline), benchmarks=tuple(found))

    # ---------------------------------------------------------------------------------------------------- one benchmark

    def _score(
        self,
        name: str,
        engine: RolloutEngine,
        *,
        weights: str,
        fits: Fits | None,
        on_call: Callable[[str, int, int], None] | None,
    ) -> tuple[BenchmarkScore, Mapping[str, Any]]:
        """The score of a benchmark and notes about it, from the store where it has them."""
        total = TaskStore(self.folder, weights=weights, task=name, signature=self._signature(name, None))
        kept = total.score(self.judging)
        if kept is None:
            judged: dict[Decoding, dict[str, Judged]] = {}
            notes: dict[str, Any] = {"too_long": 0, "truncated": 0, "lm_eval": {}, "review": None}
            for decoding in self.protocol.decodings(name):
                store = TaskStore(
                    self.folder, weights=weights, task=f"{name}-{decoding}", signature=self._signature(name, decoding)
                )
                lm = EngineLM(
                    engine,
                    prompts=self.prompts,
                    store=store,
                    seed=self.protocol.seed,
                    completions_per_call=self.completions_per_call,
                    fits=fits,
                    on_call=_labelled(on_call, f"{name} {decoding}"),
                )
                judged[decoding], notes["lm_eval"][decoding] = self._run(name, decoding, lm)
                notes["too_long"] = max(notes["too_long"], lm.too_long)
                notes["truncated"] += store.truncated()
            score = self._combine(name, judged)
            notes["review"] = self.remote_judge.review(self.tasks[name].eval_docs, judged["greedy"])
            kept = {"score": Scores(k=1, benchmarks=(score,)).to_json(), "notes": notes}
            total.keep_score(self.judging, kept)
        [score] = Scores.from_json(kept["score"]).benchmarks
        return score, kept["notes"]

    def _run(self, name: str, decoding: Decoding, lm: EngineLM) -> tuple[dict[str, Judged], Mapping[str, Any]]:
        """lm-eval's evaluation of one task: what was judged, and its own result dictionary."""
        from lm_eval.evaluator import evaluate

        task = self.tasks[name]
        task.set_config("repeats", self.protocol.repeats(decoding))
        task.set_config("generation_kwargs", dict(self._options(name, decoding)))
        with evaluating(source=self.source, judge=self.judge) as judged, _undisturbed():
            results = evaluate(lm=lm, task_dict={"tasks": {name: task}})
        return dict(judged), lm_results.plain(results)

    def _options(self, name: str, decoding: Decoding) -> Mapping[str, Any]:
        defined: Mapping[str, Any] = self.tasks[name].get_config("generation_kwargs")
        return {"until": [], "max_gen_toks": defined["max_gen_toks"], **self.protocol.options(decoding)}

    def _signature(self, name: str, decoding: Decoding | None) -> str:
        """A hash of what is asked and how; of all decodings together for None."""
        documents = [[row["id"], row["question"], list(row["answers"])] for row in self.tasks[name].eval_docs]
        decodings = self.protocol.decodings(name) if decoding is None else (decoding,)
        probe = self.prompts.solver("{question}")
        drawn = [[self.protocol.repeats(d), self._options(name, d), self.protocol.seed] for d in decodings]
        return digest([documents, probe.system, probe.user, drawn, self.completions_per_call])

    def _combine(self, name: str, judged: Mapping[Decoding, Mapping[str, Judged]]) -> BenchmarkScore:
        sampled = judged.get("sampled", judged["greedy"])
        outcomes = [
            Outcome(
                id=row["id"],
                level=row["level"],
                greedy=judged["greedy"][row["id"]].right[0],
                greedy_boxed=judged["greedy"][row["id"]].answers[0] is not None,
                sampled=sampled[row["id"]].metrics()["exact_match"],
                sampled_boxed=sampled[row["id"]].metrics()["well_formed"],
                majority=sampled[row["id"]].majority,
                any_right=any(sampled[row["id"]].right),
            )
            for row in self.tasks[name].eval_docs
        ]
        return BenchmarkScore(name=name, group=_group(self.tasks[name]), outcomes=tuple(outcomes))

    def _write_lm_results(self, weights: str, reports: Iterable[Mapping[str, Any]]) -> None:
        if self.folder is None:
            return
        everything = list(reports)
        for decoding in ("greedy", "sampled"):
            parts = [notes["lm_eval"][decoding] for notes in everything if decoding in notes["lm_eval"]]
            if parts:
                folder = self.folder / "lm_eval" / decoding
                lm_results.write(lm_results.merged(parts), folder=folder, model=weights[:16], protocol=self.protocol)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Keep two side effects of lm-eval in: it draws from Python's global generator (a random task name each time one is
    asked for), and it draws a progress bar for every task across our own. It has a switch for neither.
    """
    from lm_eval.api import task as module

    bar, state = module.tqdm, random.getstate()
    module.tqdm = functools.partial(bar, disable=True)
    try:
        yield
    finally:
        module.tqdm = bar
        random.setstate(state)


def _benchmark(task: Any) -> Benchmark:
    items = tuple(
        BenchmarkItem(id=row["id"], question=row["question"], answer=row["answer"], level=row["level"])
        for row in task.eval_docs
    )
    if len({item.id for item in items}) != len(items):
        raise ValueError(f"benchmark {task.config.task}: two questions have one id")
    return Benchmark(name=task.config.task, group=_group(task), items=items)


def _group(task: Any) -> Any:
    return task.get_config("metadata")["group"]


def _described(part: Fallback | RemoteJudge | NoRemoteJudge) -> list[str]:
    """A part by its type and settings, keys left out."""
    return [type(part).__name__, repr(sorted(item for item in vars(part).items() if item[0] != "key"))]


def _labelled(on_call: Callable[[str, int, int], None] | None, label: str) -> Callable[[int, int], None] | None:
    return None if on_call is None else lambda done, total: on_call(label, done, total)
