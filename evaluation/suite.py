"""Runs benchmarks through the engine that also trains: each item once greedily and k times sampled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from evaluation.metrics import BenchmarkScore, Outcome, Scores
from evaluation.problems import Benchmark, BenchmarkItem
from rzero.interfaces import Grader, RolloutEngine, VoteRule
from rzero.prompts import Prompts
from rzero.types import Group, Sampling


class Suite:
    """A fixed protocol over fixed benchmarks.

    seed fixes the sampled answers: every model is asked with the same random numbers, so that differences between
    models are paired.
    """

    def __init__(
        self,
        *,
        benchmarks: Sequence[Benchmark],
        prompts: Prompts,
        grader: Grader,
        vote: VoteRule,
        k: int,
        temperature: float,
        top_p: float,
        top_k: int,
        max_tokens: int,
        seed: int,
    ) -> None:
        self.benchmarks, self.prompts, self.grader, self.vote = tuple(benchmarks), prompts, grader, vote
        self.greedy = Sampling(n=1, temperature=0.0, max_tokens=max_tokens)
        self.sampled = Sampling(
            n=k, temperature=temperature, top_p=top_p, top_k=top_k, max_tokens=max_tokens, seed=seed
        )

    def evaluate(self, engine: RolloutEngine, *, progress: Callable[[int, int], None] | None = None) -> Scores:
        """Ask `engine` everything. `progress(done, total)` is called after each benchmark."""
        scores: list[BenchmarkScore] = []
        for benchmark in self.benchmarks:
            prompts = [self.prompts.solver(item.question) for item in benchmark.items]
            greedy = engine.generate(prompts, self.greedy)
            sampled = engine.generate(prompts, self.sampled)
            outcomes = tuple(map(self._judge, benchmark.items, greedy, sampled))
            scores.append(BenchmarkScore(name=benchmark.name, group=benchmark.group, outcomes=outcomes))
            if progress:
                progress(len(scores), len(self.benchmarks))
        return Scores(k=self.sampled.n, benchmarks=tuple(scores))

    def _judge(self, item: BenchmarkItem, greedy: Group, sampled: Group) -> Outcome:
        answer = self.grader.extract(greedy.completions[0].text)
        vote = self.vote([completion.text for completion in sampled.completions])
        right = [self._right(given, item.answer) for given in vote.answers]
        return Outcome(
            id=item.id,
            level=item.level,
            greedy=self._right(answer, item.answer),
            greedy_boxed=answer is not None,
            sampled=sum(right) / len(right),
            sampled_boxed=sum(given is not None for given in vote.answers) / len(right),
            majority=self._right(vote.label, item.answer),
            any_right=any(right),
        )

    def _right(self, given: str | None, gold: str) -> bool:
        return given is not None and self.grader.accepts(given, gold)


def build_suite(*, source: Callable[[], Sequence[Benchmark]], **protocol: Any) -> Suite:
    """A suite from a configured benchmark source and a protocol."""
    return Suite(benchmarks=source(), **protocol)
