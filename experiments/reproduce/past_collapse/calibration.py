"""Fits the alarm of conf/collapse/_alarm.yaml on the screening runs, where an oracle looked beside it.

A form is fitted on those rounds in which it is the one that is used (`rzero.alarm.Alarm`): the first round has no
earlier Solver to compare with, the second only the base model. Few signals, standardised, with a ridge: what is fitted
is to be read, and to hold for arms that were not there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from omegaconf import OmegaConf
from sklearn.linear_model import Ridge

from experiments import PROJECT
from experiments.reproduce.past_collapse.watched import HALF, TWO, Watched
from rzero.alarm import PREFIX, Alarm, Form, number, share
from rzero.durable import write_atomically
from rzero.types import Json

PLACE = PROJECT / "conf" / "collapse" / "_alarm.yaml"
COMMAND = "python -m experiments.reproduce.past_collapse calibrate"

KINDS = ("signals/cells", "signals/vendi")
OPINIONS = ("signals/agreement", "signals/own_answer")
SEEN: Mapping[str, Sequence[tuple[str, ...]]] = {
    "label_accuracy": (
        ("signals/previous_same", "signals/first_same", "signals/first_answers", *OPINIONS, *KINDS),
        ("signals/previous_same", *OPINIONS, *KINDS),
        (*OPINIONS, *KINDS),
    ),
    "families": (KINDS,),
}
"""What is estimated, and the signals of its forms, the fullest first."""

TRUTH: Mapping[str, Callable[[Watched], float]] = {
    "label_accuracy": lambda round_: round_.labels,
    "families": lambda round_: round_.families,
}
CURVES = {"label_accuracy": share, "families": number}
RIDGE = 1.0
NATURAL = {"label_accuracy": HALF, "families": TWO}
"""Where an estimate becomes a sign, unless calm rounds would raise it too often."""
FALSE = 0.05
"""Share of calm rounds that may raise the alarm, both estimates together."""


def fit(rounds: Sequence[Watched]) -> Alarm:
    """Returns the alarm that these rounds teach; a form that none of them needs is left out."""
    return Alarm(forms={name: _forms(name, rounds) for name in SEEN})


def _forms(name: str, rounds: Sequence[Watched]) -> list[Form]:
    left, found = list(rounds), []
    for signals in SEEN[name]:
        mine = [round_ for round_ in left if set(signals) <= round_.metrics.keys()]
        left = [round_ for round_ in left if not set(signals) <= round_.metrics.keys()]
        if mine:
            found.append(_form(name, signals, mine))
    return found


def _form(name: str, signals: Sequence[str], rounds: Sequence[Watched]) -> Form:
    x = np.array([[round_.metrics[signal] for signal in signals] for round_ in rounds])
    y = np.array([TRUTH[name](round_) for round_ in rounds])
    centre, spread = x.mean(axis=0), np.maximum(x.std(axis=0), 1e-9)
    curve = CURVES[name]
    solve = logistic if curve is share else linear
    intercept, weights = solve((x - centre) / spread, y)
    weights = weights / spread
    return Form(
        intercept=_digits(intercept - weights @ centre),
        weights={signal: _digits(weight) for signal, weight in zip(signals, weights, strict=True)},
        curve=curve,
    )


def linear(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
    """Returns intercept and weights of the ridge regression of y (N) on centred signals x (N, E)."""
    fitted = Ridge(alpha=RIDGE).fit(x, y)
    return float(fitted.intercept_), np.asarray(fitted.coef_)


def logistic(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
    """Returns intercept and weights of the ridge logistic regression of shares y (N) in [0, 1] on signals x (N, E).

    By Newton's method on the cross-entropy, since scikit-learn takes classes only; the intercept is held back a little
    too, so that shares of 1 stay finite.
    """
    padded = np.column_stack([np.ones(len(x)), x])
    ridge = RIDGE * np.eye(padded.shape[1])
    ridge[0, 0] = 0.01
    weights = np.zeros(padded.shape[1])
    for _ in range(50):
        p = 1 / (1 + np.exp(-padded @ weights))
        gradient = padded.T @ (p - y) + ridge @ weights
        step = np.linalg.solve(padded.T @ (padded * (p * (1 - p))[:, None]) + ridge, gradient)
        weights -= step
        if np.abs(step).max() < 1e-10:
            break
    return float(weights[0]), weights[1:]


def left_out(rounds: Sequence[Watched], group: Callable[[Watched], object]) -> list[dict[str, float]]:
    """Returns the estimates for each round by an alarm that saw no round of its group."""
    alarms = {
        out: fit([round_ for round_ in rounds if group(round_) != out]) for out in {group(round_) for round_ in rounds}
    }
    return [alarms[group(round_)](round_.metrics) for round_ in rounds]


def limits(rounds: Sequence[Watched], estimates: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Returns the lowest estimate of each kind that is no sign.

    Half of the labels and two families, or lower where more than `FALSE` of the calm rounds would raise the alarm.
    """
    calm = [entry for r, entry in zip(rounds, estimates, strict=True) if not (r.labels_fail or r.too_few)]
    found = {}
    for name, natural in NATURAL.items():
        values = [entry[f"{PREFIX}{name}"] for entry in calm if f"{PREFIX}{name}" in entry]
        lowest = float(np.quantile(values, FALSE / len(NATURAL))) if values else natural
        found[name] = _digits(min(natural, lowest))
    return found


def write(alarm: Alarm, lows: Mapping[str, float], *, rounds: Sequence[Watched], path: Path) -> None:
    """Writes the alarm and its limits as the configuration that runs read."""
    runs = {(round_.arm, round_.seed) for round_ in rounds}
    head = (
        f"# What signals=all says about labels and kinds of questions; fitted, not written by hand, by\n"
        f"# `{COMMAND}`\n"
        f"# on {len(rounds)} rounds of {len(runs)} runs of the micro world.\n"
    )
    write_atomically(path, (head + OmegaConf.to_yaml(OmegaConf.create(node(alarm, lows)))).encode())


def node(alarm: Alarm, lows: Mapping[str, float]) -> Json:
    """Returns the configuration of an alarm and its limits."""
    return {
        "limits": {
            name: {"_target_": "rzero.collapse.Limit", "metric": f"{PREFIX}{name}", "low": low}
            for name, low in lows.items()
        },
        "alarm": {
            "_target_": "rzero.alarm.Alarm",
            "forms": {name: [_plain(form) for form in forms] for name, forms in alarm.forms.items()},
        },
    }


def _plain(form: Form) -> Json:
    return {
        "_target_": "rzero.alarm.Form",
        "intercept": form.intercept,
        "weights": dict(form.weights),
        "curve": {"_target_": "hydra.utils.get_method", "path": f"rzero.alarm.{form.curve.__name__}"},
    }


def _digits(value: float) -> float:
    return float(f"{value:.4g}")
