"""Run directories for tests, written by the writers of a real run."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path

from omegaconf import OmegaConf

from evaluation.metrics import BenchmarkScore, Outcome, Scores
from rzero.runs.bank import JsonlBank
from rzero.runs.directory import RunDirectory
from rzero.runs.ledger import Ledger
from rzero.runs.questions import curriculum_metrics
from rzero.tracking import JsonlTracker
from rzero.types import LabelledQuestion, Vote

VOTES = 10
Posed = Callable[[int, random.Random], list[LabelledQuestion]]


def make_scores(*, accuracy: float, seed: int, items: int = 40) -> Scores:
    """Items whose chance of a right answer is `accuracy`, the same luck for every model of the same seed."""
    rng = random.Random(seed)
    benchmarks = []
    for name, group in (("sum", "math"), ("digit", "math"), ("order", "general"), ("story", "general")):
        outcomes = []
        for number in range(items):
            luck = [rng.random() for _ in range(9)]
            right = [value < accuracy for value in luck[1:]]
            outcomes.append(
                Outcome(
                    id=f"{name}-{number}",
                    level=2,
                    greedy=luck[0] < accuracy + 0.1,
                    greedy_boxed=True,
                    sampled=sum(right) / 8,
                    sampled_boxed=1.0,
                    majority=sum(right) > 4,
                    any_right=any(right),
                )
            )
        benchmarks.append(BenchmarkScore(name=name, group=group, outcomes=tuple(outcomes)))
    return Scores(k=8, benchmarks=tuple(benchmarks))


def make_questions(iteration: int, rng: random.Random, *, candidates: int = 60) -> list[LabelledQuestion]:
    """Votes of every agreement, the paper's band, and some questions whose format is broken."""
    return [_question(iteration, index, rng) for index in range(candidates)]


def _question(iteration: int, index: int, rng: random.Random) -> LabelledQuestion:
    if index % 9 == 0:
        return LabelledQuestion(
            iteration=iteration, index=index, question="", challenger_answer=None, vote=None, drop_reason="no_question"
        )
    terms = [rng.randint(2, 30) for _ in range(2 + iteration)]
    right, count = str(sum(terms)), rng.randint(1, VOTES)
    wrong = [str(sum(terms) + shift) for shift in range(1, VOTES - count + 1)]
    share = count / VOTES
    return LabelledQuestion(
        iteration=iteration,
        index=index,
        question="What is " + " + ".join(map(str, terms)) + "?",
        challenger_answer=right,
        vote=Vote(
            label=right,
            count=count,
            divisor=VOTES,
            counts=((right, count), *((answer, 1) for answer in wrong)),
            answers=(right,) * count + tuple(wrong),
        ),
        drop_reason="below_band" if share < 0.25 else "above_band" if share > 0.75 else None,
    )


def make_config(**changes: object) -> dict[str, object]:
    """The keys of a configuration that a report reads, and an interpolation that it must leave alone."""
    rule = {"_target_": "rzero.curriculum.BandCurriculum", "band": {"centre": 0.5, "half_width": 0.25}}
    config = {"name": "micro", "seed": 0, "iterations": 2, "directory": None, "resume": None}
    return config | {"curriculum": {"rule": rule}, "path": "${nowhere:}"} | changes


class RunWriter:
    """Writes a run stage by stage, so that a test can stop anywhere."""

    def __init__(self, path: Path, **changes: object) -> None:
        self.path, self.config = path, make_config(**changes)
        self.there = RunDirectory(path)
        self.seed = int(str(self.config["seed"]))
        self.rng = random.Random(self.seed)
        path.mkdir(parents=True)
        self.there.config.write_text(OmegaConf.to_yaml(OmegaConf.create(self.config)), encoding="utf-8")
        self.ledger = Ledger.open(self.there.state)

    def manifest(self, *, finished: bool) -> None:
        attempt: dict[str, object] = {"started_unix_s": 1_795_343_005.0, "commit": "0123456789abcdef0123+changes"}
        if finished:
            attempt |= {"finished_unix_s": 1_795_343_405.0, "peak_rss_gib": 1.25, "peak_rss_all_gib": 1.75}
        manifest = {"attempts": [attempt], "name": self.config["name"], "seed": self.seed, "finished": finished}
        manifest |= {"versions": {"torch": "2.13.0"}, "python": "3.11.7", "machine": "Linux", "threads": 1}
        self.there.manifest.write_text(json.dumps(manifest), encoding="utf-8")

    def evaluate(self, iteration: int) -> Scores:
        scores = make_scores(accuracy=0.35 + 0.08 * iteration, seed=self.seed)
        path = self.there.scores(iteration)
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(scores.to_json()), encoding="utf-8")
        self.log(iteration, scores.metrics())
        self._complete(f"{iteration}/evaluation", 20.0)
        return scores

    def train(self, iteration: int, role: str, *, steps: int) -> None:
        for step in range(steps):
            metrics = {"reward": 0.4 + 0.02 * step, "kl": 0.001 * step, "completions/mean_length": 30.0 + step}
            metrics |= {"frac_reward_zero_std": 0.25, "num_tokens": 100.0, "timing_s/step": 10.0}
            metrics |= {"timing_s/rollout": 5.0, "timing_s/reward": 3.0, "timing_s/update": 2.0}
            self.log(iteration, {f"{role}/{name}": value for name, value in metrics.items()})
        self._complete(f"{iteration}/{role}", 65.5)

    def pose(self, iteration: int, posed: Posed = make_questions, *, audited: bool = True) -> list[LabelledQuestion]:
        questions = posed(iteration, self.rng)
        JsonlBank(self.there).put(iteration, questions)
        audit = {"audit/level": 2.0 + iteration, "audit/level_kept": 2.5 + iteration, "audit/well_posed": 0.9}
        audit |= {"audit/label_accuracy": 0.7, "audit/label_accuracy_kept": 0.8 - 0.1 * iteration}
        self.log(iteration, {**curriculum_metrics(questions), **(audit if audited else {})})
        if any(question.kept for question in questions):
            self._complete(f"{iteration}/questions", 12.0)
        return questions

    def iterate(self, iteration: int) -> None:
        self.train(iteration, "challenger", steps=4)
        self.pose(iteration)
        self.train(iteration, "solver", steps=10)
        self.evaluate(iteration)

    def log(self, iteration: int, metrics: Mapping[str, float]) -> None:
        self.ledger.step += 1
        tracker = JsonlTracker(self.there.metrics)
        tracker.log({"iteration": float(iteration), **metrics}, step=self.ledger.step)
        tracker.close()

    def _complete(self, stage: str, seconds: float) -> None:
        tracker = JsonlTracker(self.there.metrics)
        self.ledger.complete(
            stage, {"summary": "", "seconds": seconds, "peak_rss_gib": 1.5}, files={}, metrics=tracker.position()
        )
        tracker.close()


def finished_run(path: Path, **changes: object) -> RunWriter:
    """A complete run of two iterations."""
    writer = RunWriter(path, **changes)
    writer.evaluate(0)
    for iteration in (1, 2):
        writer.iterate(iteration)
    writer.manifest(finished=True)
    return writer
