"""How well an alarm does on rounds that taught it nothing: ranking, false alarms, and how near its estimates come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from experiments.reproduce.past_collapse.watched import Watched
from rzero.alarm import PREFIX

NEAR = 0.1
"""How far an estimate of the label accuracy may be off."""
HOLDING = (0.6, 2.5)
"""Label accuracy and families from which on, at the end of its runs, an arm is said to hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What an alarm is worth; None where there is nothing to tell it by, such as an event that never came.

    labels, families: areas under the curve (AUC) of the estimates for `Watched.labels_fail` and `Watched.too_few`.
    false_alarms: share of the rounds of arms that hold which raise it; calm_alarms: of all rounds without event.
    near, near_worst: share of rounds whose estimated label accuracy is within 0.1, and that of the worst arm.
    falls, falls_gold: AUC for `Watched.falls` of the estimated label accuracy and of the true one.
    """

    runs: int
    rounds: int
    labels: float | None
    families: float | None
    false_alarms: float | None
    calm_alarms: float | None
    near: float | None
    near_worst: float | None
    falls: float | None
    falls_gold: float | None

    @property
    def auc(self) -> float | None:
        """The smaller of the first two areas."""
        return None if self.labels is None or self.families is None else min(self.labels, self.families)


def judge(rounds: Sequence[Watched], estimates: Sequence[Mapping[str, float]], *, lows: Mapping[str, float]) -> Verdict:
    """Returns what the estimates of these rounds are worth. lows: the lowest of each kind that raises no alarm."""
    both = [(r, e) for r, e in zip(rounds, estimates, strict=True) if {f"{PREFIX}{name}" for name in lows} <= e.keys()]
    known = [r for r, _ in both]
    labels, families = ([e[f"{PREFIX}{name}"] for _, e in both] for name in ("label_accuracy", "families"))
    raised = [any(e[f"{PREFIX}{name}"] < low for name, low in lows.items()) for _, e in both]
    near = [abs(estimate - r.labels) <= NEAR for r, estimate in zip(known, labels, strict=True)]
    arms = sorted({r.arm for r in known})
    near_by_arm = [float(np.mean([n for n, r in zip(near, known, strict=True) if r.arm == arm])) for arm in arms]
    holding = {arm for arm in arms if _holds([r for r in known if r.arm == arm])}
    watched = [i for i, r in enumerate(known) if r.falls is not None]
    falls = [bool(known[i].falls) for i in watched]
    return Verdict(
        runs=len({(r.arm, r.seed) for r in known}),
        rounds=len(known),
        labels=area([r.labels_fail for r in known], [-value for value in labels]),
        families=area([r.too_few for r in known], [-value for value in families]),
        false_alarms=_share(raised, [r.arm in holding for r in known]),
        calm_alarms=_share(raised, [not (r.labels_fail or r.too_few) for r in known]),
        near=_share(near, [True] * len(near)),
        near_worst=min(near_by_arm, default=None),
        falls=area(falls, [-labels[i] for i in watched]),
        falls_gold=area(falls, [-known[i].labels for i in watched]),
    )


def area(events: Sequence[bool], scores: Sequence[float]) -> float | None:
    """Returns how often an event's score lies above another round's, ties counting half; None without one of both."""
    there, values = np.array(events, dtype=bool), np.array(scores, dtype=float)
    high, low = values[there], values[~there]
    if not (len(high) and len(low)):
        return None
    return float(((high[:, None] > low) + 0.5 * (high[:, None] == low)).mean())


def _holds(rounds: Sequence[Watched]) -> bool:
    last = max(r.number for r in rounds)
    ends = [r for r in rounds if r.number == last]
    labels, families = HOLDING
    return bool(np.mean([r.labels for r in ends]) >= labels and np.mean([r.families for r in ends]) >= families)


def _share(values: Sequence[bool], chosen: Sequence[bool]) -> float | None:
    mine = [value for value, mine in zip(values, chosen, strict=True) if mine]
    return float(np.mean(mine)) if mine else None
