"""Two iterations beside one another: every metric that either of them logged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from experiments.reporting.data import Iteration
from rzero.tracking import is_timing

_NOT_A_METRIC = {"step", "iteration"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """A metric in both iterations; None where it was not logged or not finite."""

    name: str
    left: float | None
    right: float | None

    @property
    def difference(self) -> float | None:
        return None if self.left is None or self.right is None else self.right - self.left


PROTOCOLS = ("greedy", "mean@k", "maj@k", "pass@k")


def scores(left: Iteration, right: Iteration) -> dict[str, Sequence[Measure]]:
    """Each benchmark and average under each of `PROTOCOLS`; empty when neither iteration was evaluated."""
    ours, theirs = ({} if iteration.scores is None else iteration.scores.table() for iteration in (left, right))
    return {
        name: [
            Measure(name=column, left=ours.get(name, {}).get(column), right=theirs.get(name, {}).get(column))
            for column in PROTOCOLS
        ]
        for name in dict.fromkeys([*ours, *theirs])
    }


def overall(left: Iteration, right: Iteration) -> Measure:
    values = [None if iteration.scores is None else iteration.scores.overall for iteration in (left, right)]
    return Measure(name="overall", left=values[0], right=values[1])


def measures(left: Iteration, right: Iteration) -> dict[str, Sequence[Measure]]:
    """Measures by stage (curriculum, audit, then the others); of training, the last step's."""
    ours, theirs = _last_values(left), _last_values(right)
    stages: dict[str, list[Measure]] = {}
    for name in dict.fromkeys([*ours, *theirs]):
        stage, _, rest = name.partition("/")
        measure = Measure(name=rest or name, left=ours.get(name), right=theirs.get(name))
        stages.setdefault(stage, []).append(measure)
    order = ("curriculum", "audit")
    return {stage: stages[stage] for stage in (*order, *sorted(stages.keys() - set(order))) if stage in stages}


def _last_values(iteration: Iteration) -> dict[str, float | None]:
    values: dict[str, float | None] = {}
    for row in iteration.logged:
        values.update({name: value for name, value in row.items() if name not in _NOT_A_METRIC and not is_timing(name)})
    return values
