"""What signals without gold say about labels and questions: sums of a few of them, fitted where an oracle had looked.

The coefficients are data (conf/collapse/_alarm.yaml names the command that fits them), and a form is short enough to be
read: which signal, how much it counts. In which range an estimate should lie is a limit like any other
(`rzero.collapse`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

PREFIX = "alarm/"
"""Begins the names of estimates among the metrics."""
LABEL_ACCURACY, FAMILIES = f"{PREFIX}label_accuracy", f"{PREFIX}families"
"""Estimates of the alarm that this repository brings: the share of kept labels that are right, and of how many kinds
the questions are.
"""
RAISED = f"{PREFIX}raised"
"""1 where an estimate lies outside of its limits, 0 where all lie inside."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """intercept + the sum of weight x signal, through a curve. weights: by the signal's full name."""

    intercept: float
    weights: Mapping[str, float]
    curve: Callable[[float], float]

    def sees(self, metrics: Mapping[str, float]) -> bool:
        """Returns whether every signal is there."""
        return self.weights.keys() <= metrics.keys()

    def __call__(self, metrics: Mapping[str, float]) -> float:
        return self.curve(self.intercept + sum(weight * metrics[name] for name, weight in self.weights.items()))


def share(value: float) -> float:
    """Returns 1 / (1 + exp(-value)), in [0, 1]."""
    return 0.5 * (1 + math.tanh(value / 2))  # without overflow


def number(value: float) -> float:
    """Returns the value as an effective number, which is at least 1."""
    return max(1.0, value)


class Alarm:
    """Estimates from a row of metrics. forms: by what is estimated, the fullest first.

    The first form that sees all its signals counts: early iterations have no earlier Solvers to compare with.
    """

    def __init__(self, *, forms: Mapping[str, Sequence[Form]]) -> None:
        self.forms = {name: tuple(choices) for name, choices in forms.items()}

    def __call__(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Returns the estimates as metrics, `alarm/<name>`; none where there are too few signals for any form."""
        seen = {
            name: next((form for form in choices if form.sees(metrics)), None) for name, choices in self.forms.items()
        }
        return {f"{PREFIX}{name}": form(metrics) for name, form in seen.items() if form}
