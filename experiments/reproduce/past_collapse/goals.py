"""What the study set out to reach before its runs were made, and what the kept runs reach."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from experiments.reporting.markdown import markdown_table
from rzero.types import Json


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """A figure of `findings`, by its path there, and its bound: the smallest value that will do, or the largest.

    seeds: which of the `counts` there says of how many seeds it is; None: of all runs that the alarm is judged on.
    """

    says: str
    figure: tuple[str, ...]
    bound: float
    seeds: str | None = None
    largest: bool = False
    stretch: bool = False

    def reached(self, value: float) -> bool:
        return value <= self.bound if self.largest else value >= self.bound


GOALS = (
    Goal(
        says="round 10 minus the best earlier round, lower 95 % limit",
        figure=("decline_low",),
        seeds="winner",
        bound=-1.0,
    ),
    Goal(says="round 20 minus round 10", figure=("twenty_rounds",), seeds="twenty", bound=-0.5),
    Goal(
        says="labelled training minus the winner, round 10",
        figure=("below_ceiling",),
        seeds="ceiling",
        bound=1.5,
        largest=True,
    ),
    Goal(says="winner minus R-Zero, round 10", figure=("paired_gain",), seeds="paired", bound=5.0),
    Goal(says="its lower 95 % limit", figure=("paired_gain_low",), seeds="paired", bound=2.0),
    Goal(says="winner's round 10 minus round 3", figure=("late_gain",), seeds="winner", bound=3.0, stretch=True),
    Goal(says="the same at levels 9 to 16", figure=("hard_gain",), seeds="winner", bound=5.0),
    Goal(says="kept labels that are right, round 10", figure=("label_accuracy",), seeds="winner", bound=0.6),
    Goal(says="effective families, round 10", figure=("effective_families",), seeds="winner", bound=2.5),
    Goal(says="winner minus R-Zero, medium model", figure=("sizes", "medium"), seeds="medium", bound=0.0),
    Goal(says="winner minus R-Zero, micro model", figure=("sizes", "micro"), seeds="micro", bound=0.0),
    Goal(says="alarm: AUC for labels", figure=("alarm", "labels"), bound=0.9),
    Goal(says="alarm: AUC for families", figure=("alarm", "families"), bound=0.9),
    Goal(
        says="alarm: rounds of arms that hold and raise it", figure=("alarm", "false_alarms"), bound=0.05, largest=True
    ),
    Goal(says="alarm: labels estimated within 0.1, share of rounds", figure=("alarm", "near"), bound=0.8),
    Goal(says="the same, worst arm", figure=("alarm", "near_worst"), bound=0.6),
)
"""Points of the overall score where nothing else is said; the issue that asked for the study named them."""


def table(found: Json) -> str:
    """Returns the goals with what `findings` found, and of how many runs, a line each."""
    header = ["goal", "at least", "at most", "found", "seeds", "reached"]
    return markdown_table(header, [_row(goal, found) for goal in GOALS])


def _row(goal: Goal, found: Json) -> list[str]:
    value: Any = found
    for key in goal.figure:
        value = value[key]
    bound = f"{goal.bound:g}"
    return [
        f"{goal.says} (stretch)" if goal.stretch else goal.says,
        "" if goal.largest else bound,
        bound if goal.largest else "",
        "-" if value is None else f"{value:.2f}",
        f"{found['alarm']['runs']} runs" if goal.seeds is None else str(found["counts"][goal.seeds]),
        "not measured" if value is None else "yes" if goal.reached(value) else "no",
    ]
