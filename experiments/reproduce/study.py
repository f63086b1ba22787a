"""A table or figure of the paper as a record: arms, seeds, tables, a picture and claims with their measures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Literal

from matplotlib.figure import Figure

from evaluation.metrics import Scores
from evaluation.seeds import Estimate, over_seeds
from experiments.reproduce.arms import Model, Treatment, arm_of
from experiments.runs import Arm, KeptRun
from rzero.types import Json

Group = Mapping[str, Sequence[KeptRun]]
"""Runs of one model by the name of their treatment, in the order of their seeds."""

Runs = Mapping[str, Group]
"""The same by the name of the model."""

Verdict = Literal["holds", "does not hold", "undecided"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A statement of the paper and its measure: one number per seed, positive where the statement is true.

    `paper` is what the paper reports for it, `unit` that of the measure.
    """

    text: str
    paper: str
    measure: Callable[[Group], Sequence[float]]
    unit: str = "points"

    def judge(self, runs: Group) -> tuple[Verdict, Estimate]:
        """It holds, or does not, when the 95 % interval over seeds leaves 0 out; one seed decides nothing."""
        estimate = over_seeds(self.measure(runs))
        if estimate.low is not None and estimate.low > 0:
            return "holds", estimate
        if estimate.high is not None and estimate.high < 0:
            return "does not hold", estimate
        return "undecided", estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """A table as texts; the first column is flush left."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """One table or figure. `name` is its file in this package, `source` where it stands in the paper.

    models, seeds: by scale; a scale that is missing has no run of this study, and `missing` says why. tabulate, draw:
    from the runs of all models. analysed: every iteration's questions are asked of every Solver, which needs weights.
    """

    name: str
    title: str
    source: str
    models: Mapping[str, Sequence[Model]]
    treatments: Sequence[Treatment]
    claims: Sequence[Claim]
    tabulate: Callable[[Runs], Sequence[Grid]]
    draw: Callable[[Runs], Figure]
    analysed: bool = False
    seeds: Mapping[str, Sequence[int]] = field(default_factory=lambda: {"micro": (0, 1, 2), "paper": (0, 1, 2)})
    missing: Mapping[str, str] = field(default_factory=dict)

    def arms(self, scale: str) -> list[tuple[Model, Treatment, Arm]]:
        return [
            (model, treatment, replace(arm_of(model, treatment), analysed=self.analysed))
            for model in self.models.get(scale, ())
            for treatment in self.treatments
        ]


# ------------------------------------------------------------------------------------------------------------ measures


def row_score(scores: Scores, row: str) -> float:
    """A benchmark or average under the protocol that counts (the mean of the headline columns), in percent."""
    found = scores.table()[row]
    return fmean(found[column] for column in scores.headline)


def general_avg(scores: Scores) -> float:
    """Mean of the general benchmarks."""
    return row_score(scores, "GENERAL AVG")


def math_avg(scores: Scores) -> float:
    """Mean of the mathematics benchmarks."""
    return row_score(scores, "MATH AVG")


def overall_avg(scores: Scores) -> float:
    """The paper's headline: MATH AVG and each general benchmark, averaged."""
    return row_score(scores, "Overall AVG")


def gains(treatment: Treatment, score: Callable[[Scores], float]) -> Callable[[Group], list[float]]:
    """A measure: last iteration minus base model, seed by seed."""
    return lambda runs: [score(run.scores[-1]) - score(run.scores[0]) for run in runs[treatment.name]]


def leads(treatment: Treatment, other: Treatment, score: Callable[[Scores], float]) -> Callable[[Group], list[float]]:
    """A measure: last iteration of one treatment minus the other's, paired by seed."""
    return lambda runs: [
        score(mine.scores[-1]) - score(theirs.scores[-1])
        for mine, theirs in zip(runs[treatment.name], runs[other.name], strict=True)
    ]


def rise(treatment: Treatment, metric: str) -> Callable[[Group], list[float]]:
    """A measure: a metric in the last iteration minus in the first."""
    return lambda runs: [run.iterations[-1][metric] - run.iterations[1][metric] for run in runs[treatment.name]]


def mean_text(values: Sequence[float], form: str = ".1f") -> str:
    """Mean over seeds, with the interval's half where there are several."""
    estimate = over_seeds(values)
    if estimate.high is None:
        return f"{estimate.mean:{form}}"
    return f"{estimate.mean:{form}} ± {estimate.high - estimate.mean:{form}}"


def plain(study: Study, runs: Runs) -> list[Json]:
    """Return claims with their verdicts as plain data, model by model."""
    found = []
    for model, group in runs.items():
        for claim in study.claims:
            verdict, estimate = claim.judge(group)
            found.append(
                {
                    "model": model,
                    "claim": claim.text,
                    "paper": claim.paper,
                    "verdict": verdict,
                    "unit": claim.unit,
                    "mean": estimate.mean,
                    "low": estimate.low,
                    "high": estimate.high,
                    "confidence": estimate.positive,
                    "seeds": estimate.seeds,
                }
            )
    return found
