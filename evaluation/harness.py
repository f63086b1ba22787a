"""The evaluation harness: benchmarks asked through a rollout engine under a protocol, resumable at every engine call.

suite = HarnessSuite(tasks=["math500", "aime24"], definitions=..., source=..., protocol=..., ...)
evaluation = suite.evaluate(engine, policy=policy)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from evaluation import lm_results
from evaluation.answering import Answering
from evaluation.engine_lm import EngineLM, generation_options
from evaluation.judging import Document, Fallback, Judge, Judged
from evaluation.metrics import BenchmarkScore, Outcome, Scores
from evaluation.protocol import Decoding, Protocol
from evaluation.reading import Reading
from evaluation.remote_judge import NoRemoteJudge, RemoteJudge
from evaluation.report import Evaluation, Notes
from evaluation.sources import DocumentSource
from evaluation.store import TaskStore, code_hash, digest
from evaluation.tasks import VERSION, BenchmarkTask, Definition
from rzero.interfaces import Grader, Progress, RolloutEngine, VoteRule, Watch
from rzero.policy import Policy
from rzero.prompts import Prompts
from rzero.types import Json, Sampling


class HarnessSuite:
    """A `BenchmarkSuite`: every task is asked once greedily, those that the protocol samples also k times.

    tasks: the benchmarks in order, each one of `definitions`. folder: where responses and scores are kept (None:
    nowhere, and an evaluation that was stopped starts again). drawn_by: the engine's class and dtype, because responses
    of one engine are not those of another. Questions are loaded when the suite is built.
    Raises ValueError for an unknown task or a wrong definition, and `DataNotFoundError` where questions cannot be had.
    """

    def __init__(
        self,
        *,
        tasks: Sequence[str],
        definitions: Mapping[str, Json],
        source: DocumentSource,
        protocol: Protocol,
        reading: Reading,
        fallback: Fallback,
        prompts: Prompts,
        grader: Grader,
        vote: VoteRule,
        folder: str | None,
        drawn_by: Sequence[str | None],
        completions_per_call: int,
        remote_judge: RemoteJudge | NoRemoteJudge,
    ) -> None:
        if unknown := [name for name in (*tasks, *protocol.sampled) if name not in definitions]:
            raise ValueError(f"no task {', '.join(unknown)}; benchmarks.definitions has {', '.join(definitions)}")
        self.protocol, self.prompts, self.remote_judge = protocol, prompts, remote_judge
        self.finished_only = protocol.truncated == "wrong"
        self.folder = None if folder is None else Path(folder)
        self.completions_per_call, self.drawn_by = completions_per_call, tuple(drawn_by)
        self.judging = digest(
            [code_hash(), reading, _described(fallback), _described(remote_judge), type(grader).__name__]
        )
        judge = Judge(grader=grader, vote=vote, reading=reading, fallback=fallback)
        self.tasks = {
            name: BenchmarkTask(name, _definition(name, definitions[name]), source=source, judge=judge)
            for name in tasks
        }
        self.samplings = {name: self._samplings(task) for name, task in self.tasks.items()}
        self.benchmarks = tuple(task.benchmark for task in self.tasks.values())

    def _samplings(self, task: BenchmarkTask) -> dict[Decoding, Sampling]:
        decodings = self.protocol.decodings(task.name)
        return {d: self.protocol.sampling(d, max_tokens=task.definition.max_tokens) for d in decodings}

    def evaluate(
        self,
        engine: RolloutEngine,
        *,
        policy: Policy | None = None,
        progress: Progress | None = None,
        watch: Watch | None = None,
    ) -> Evaluation:
        """Ask `engine` everything that has not been asked of this policy before.

        policy: the one that the engine draws from; without it nobody can say whose responses they are, so none is kept
        and none is found. progress counts benchmarks; `watch` is given the name of each part, and counts its responses.
        """
        answering = Answering.of(policy, self.prompts) if policy else None
        scores: list[BenchmarkScore] = []
        notes: dict[str, Notes] = {}
        results: dict[Decoding, list[Json]] = {}
        for name in self.tasks:
            kept = self._task(name, engine, answering=answering, watch=watch)
            scores += Scores.from_json(kept["score"]).benchmarks
            notes[name] = Notes.from_json(kept["notes"])
            for decoding in self.samplings[name]:
                results.setdefault(decoding, []).append(kept["lm_results"][decoding])
            if progress:
                progress(len(scores), len(self.tasks))
        k = self.protocol.k if set(self.protocol.sampled) & set(self.tasks) else 1
        return Evaluation(
            weights=answering.weights if answering else "",
            key=digest([answering.spelling, self.drawn_by, asdict(self.protocol)]) if answering else "",
            scores=Scores(k=k, headline=tuple(self.protocol.headline), benchmarks=tuple(scores)),
            notes=notes,
            lm_results=results,
        )

    def write_lm_results(self, evaluation: Evaluation) -> None:
        """lm-eval's result files into `<folder>/lm_eval/<decoding>`; nothing without a folder."""
        if self.folder is None:
            return
        for decoding, parts in evaluation.lm_results.items():
            folder = self.folder / "lm_eval" / decoding
            model = evaluation.weights[:16]
            lm_results.write(lm_results.merged(parts), folder=folder, model=model, protocol=self.protocol)

    # ---------------------------------------------------------------------------------------------------- one benchmark

    def _task(self, name: str, engine: RolloutEngine, *, answering: Answering | None, watch: Watch | None) -> Json:
        """A benchmark's score, notes and lm-eval results as plain data, from the store where it has them."""
        store = self._store(name, name, self.samplings[name], answering)
        task = self.tasks[name]
        judged_by = [self.judging, *(["finished only"] if self.finished_only else [])]
        judging = digest([*judged_by, asdict(task.definition), [dict(row) for row in task.documents]])
        kept = store.score(judging)
        if kept is not None:
            return kept
        judged: dict[Decoding, Mapping[str, Judged]] = {}
        results: dict[Decoding, Json] = {}
        truncated: dict[Decoding, float] = {}
        too_long = 0
        for decoding, sampling in self.samplings[name].items():
            lm = EngineLM(
                engine,
                prompts=self.prompts,
                sampling=sampling,
                store=self._store(f"{name}-{decoding}", name, {decoding: sampling}, answering),
                completions_per_call=self.completions_per_call,
                fits=answering.fits if answering else None,
                finished_only=self.finished_only,
                progress=watch(f"{name} {decoding}") if watch else None,
            )
            options = generation_options(sampling)
            judged[decoding], found = task.run(lm, repeats=sampling.n, generation=options)
            results[decoding] = lm_results.plain(found)
            truncated[decoding] = lm.truncated / (len(task.documents) * sampling.n)
            too_long = lm.too_long
        score = self._score(name, judged)
        review = self.remote_judge.review(task.documents, judged["greedy"])
        kept = {
            "score": Scores(k=1, benchmarks=(score,)).to_json(),
            "notes": asdict(Notes(too_long=too_long, truncated=truncated, review=review)),
            "lm_results": results,
        }
        store.keep_score(judging, kept)
        return kept

    def _store(
        self, folder: str, name: str, samplings: Mapping[Decoding, Sampling], answering: Answering | None
    ) -> TaskStore:
        """Where responses are kept that were asked for, drawn and cut up into calls in just this way."""
        if answering is None:
            return TaskStore(None, weights="", task=folder, signature="")
        asked = [[row["id"], row["question"]] for row in self.tasks[name].documents]
        probe = self.prompts.solver("{question}")
        drawn = [[_drawn(sampling) for sampling in samplings.values()], self.completions_per_call, self.drawn_by]
        signature = digest([VERSION, asked, probe.system, probe.user, answering.spelling, drawn])
        return TaskStore(self.folder, weights=answering.weights, task=folder, signature=signature)

    def _score(self, name: str, judged: Mapping[Decoding, Mapping[str, Judged]]) -> BenchmarkScore:
        """Outcomes by document; without samples the greedy response is the only one."""
        greedy, sampled = judged["greedy"], judged.get("sampled", judged["greedy"])
        task = self.tasks[name]
        outcomes = tuple(_outcome(row, greedy[row["id"]], sampled[row["id"]]) for row in task.documents)
        return BenchmarkScore(name=name, group=task.definition.group, outcomes=outcomes)


def _drawn(sampling: Sampling) -> Json:
    """The sampling as part of a signature. Nothing is dropped in an evaluation; before one could, no word was said."""
    return {name: value for name, value in asdict(sampling).items() if name != "vocabulary_dropout"}


def _outcome(document: Document, greedy: Judged, sampled: Judged) -> Outcome:
    shares = sampled.metrics()
    return Outcome(
        id=document["id"],
        level=document["level"],
        greedy=greedy.right[0],
        greedy_boxed=greedy.answers[0] is not None,
        sampled=shares["exact_match"],
        sampled_boxed=shares["well_formed"],
        majority=sampled.majority,
        any_right=any(sampled.right),
    )


def _definition(name: str, given: Json) -> Definition:
    try:
        return Definition(**given)
    except (TypeError, ValueError) as error:
        raise ValueError(f"benchmarks.definitions.{name}: {error}") from error


def _described(part: Fallback | RemoteJudge | NoRemoteJudge) -> list[str]:
    """A part by its type and settings, keys left out."""
    return [type(part).__name__, repr(sorted(item for item in vars(part).items() if item[0] != "key"))]
