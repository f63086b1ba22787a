"""Rounds of kept runs as an alarm meets them: signals without gold, beside what the oracle knew of the same round."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from experiments.reproduce.past_collapse.arms import Part
from experiments.reproduce.past_collapse.keeping import Kept, lacks, load

LABELS, FAMILIES = "audit/label_accuracy_kept", "audit/families"
HALF, TWO = 0.5, 2.0
"""Below them labels have failed and questions are of too few kinds."""
AHEAD = 3
"""Rounds within which a score may fall."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """A round of a run: its metrics, and what became of labels, kinds and score.

    arm: part and treatment. labels, families: the share of kept labels that are right, and the effective number of
    families posed. labels_fail: fewer than half of the labels are right in this round or the next. too_few: fewer than
    two families. falls: whether the score after three rounds from this one on is lower than before it; None where the
    run ends earlier.
    """

    arm: str
    seed: int
    number: int
    metrics: Mapping[str, float]
    labels: float
    families: float
    labels_fail: bool
    too_few: bool
    falls: bool | None


Runs = Mapping[str, Mapping[int, Kept]]
"""Kept runs of a part by treatment and seed."""


def kept(part: Part) -> Runs:
    """Returns every kept run of a part; treatments without any are left out."""
    found = {
        treatment: {seed: load(part, treatment, seed) for seed in part.seeds if not lacks(part, treatment, seed)}
        for treatment in part.treatments
    }
    return {treatment: runs for treatment, runs in found.items() if runs}


def watched(runs: Mapping[str, Runs]) -> list[Watched]:
    """Returns the rounds that have signals and readable questions, of the runs of each part."""
    return [
        entry
        for part, treatments in runs.items()
        for treatment, seeds in treatments.items()
        for run in seeds.values()
        for entry in of_run(run, arm=f"{part}/{treatment}")
    ]


def of_run(run: Kept, *, arm: str) -> Iterator[Watched]:
    """Yields the rounds of one run."""
    for number, metrics in enumerate(run.rounds):
        if number and "signals/cells" in metrics and {LABELS, FAMILIES} <= metrics.keys():
            next_ = run.rounds[number + 1] if number + 1 < len(run.rounds) else metrics
            end = number + AHEAD - 1
            yield Watched(
                arm=arm,
                seed=run.seed,
                number=number,
                metrics=metrics,
                labels=metrics[LABELS],
                families=metrics[FAMILIES],
                labels_fail=min(metrics[LABELS], next_.get(LABELS, metrics[LABELS])) < HALF,
                too_few=metrics[FAMILIES] < TWO,
                falls=run.overall[end] < run.overall[number - 1] if end < len(run.overall) else None,
            )
