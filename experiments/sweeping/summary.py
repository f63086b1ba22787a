"""The findings of a sweep: its jobs grouped into arms, each with its seeds, against the first arm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from evaluation.metrics import Scores, gain
from evaluation.seeds import Estimate, over_seeds
from experiments.reporting.data import Run, read_run
from experiments.sweeping.jobs import Job


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Points with a 95 % interval: over seeds (Student's t), or over items (paired bootstrap) for a single seed."""

    points: float
    low: float
    high: float
    over: str

    @property
    def text(self) -> str:
        return f"{self.points:+.2f} [{self.low:+.2f}, {self.high:+.2f}]"


@dataclass(frozen=True, slots=True, kw_only=True)
class SweptArm:
    """Finished runs that differ in nothing but their seed. `name` says what sets them apart from the other arms."""

    name: str
    runs: tuple[Run, ...]

    def overall(self, iteration: int) -> Estimate | None:
        """Mean of `overall` after an iteration over the seeds that have it; None when none has."""
        values = [scores.overall for run in self.runs if (scores := dict(run.scores).get(iteration))]
        return over_seeds(values) if values else None

    @property
    def iterations(self) -> int:
        return max(run.done for run in self.runs)

    def gain(self) -> Difference:
        """From the base model to the last iteration."""
        return difference([(run.scores[0][1], last(run)) for run in self.runs])

    def against(self, other: SweptArm) -> Difference | None:
        """Last iteration of this arm minus the other's, over the seeds that both have; None when they share none."""
        partners = {run.seed: last(run) for run in other.runs}
        pairs = [(partners[run.seed], last(run)) for run in self.runs if run.seed in partners]
        return difference(pairs) if pairs and all(comparable(*pair) for pair in pairs) else None


def last(run: Run) -> Scores:
    """Return the scores of the last evaluated iteration."""
    return run.scores[-1][1]


def comparable(left: Scores, right: Scores) -> bool:
    """Return whether both were measured on the same items under the same headline."""

    def items(scores: Scores) -> list[tuple[str, tuple[str, ...]]]:
        return [(benchmark.name, tuple(o.id for o in benchmark.outcomes)) for benchmark in scores.benchmarks]

    return left.headline == right.headline and items(left) == items(right)


def difference(pairs: Sequence[tuple[Scores, Scores]]) -> Difference:
    """Second minus first of each pair; one pair per seed."""
    if len(pairs) == 1:
        change = gain(*pairs[0])
        return Difference(points=change.points, low=change.low, high=change.high, over="items")
    estimate = over_seeds([after.overall - before.overall for before, after in pairs])
    assert estimate.low is not None
    assert estimate.high is not None
    return Difference(points=estimate.mean, low=estimate.low, high=estimate.high, over="seeds")


def arms(jobs: Sequence[Job]) -> list[SweptArm]:
    """Finished jobs that trained at least one iteration, grouped by what varies among all jobs besides the seed."""
    varying = _varying(jobs)
    grouped: dict[str, list[Run]] = {}
    for job in jobs:
        if job.done:
            run = read_run(Path(job.directory))
            if run.base is not None and run.done:
                name = ", ".join(f"{varying[key]}={value}" for key, value in _values(job).items() if key in varying)
                grouped.setdefault(name or run.name, []).append(run)
    return [SweptArm(name=name, runs=tuple(runs)) for name, runs in grouped.items()]


def _varying(jobs: Sequence[Job]) -> dict[str, str]:
    """Return the keys whose value varies among jobs, and what to call them: their last part where that is enough."""
    values: dict[str, set[str]] = {}
    for job in jobs:
        for key, value in _values(job).items():
            values.setdefault(key, set()).add(value)
    keys = [key for key, found in values.items() if len(found) > 1 and key != "seed"]
    tails = [key.rpartition(".")[2] for key in keys]
    return {key: tail if tails.count(tail) == 1 else key for key, tail in zip(keys, tails, strict=True)}


def _values(job: Job) -> dict[str, str]:
    return dict(text.split("=", 1) for text in job.overrides if "=" in text)
