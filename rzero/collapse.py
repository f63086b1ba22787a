"""Signs that self-play is collapsing, while there is still something to save.

A limit names a metric and the range it should stay in. Outside for `patience` rows in a row is a sign, which is said
once until the metric recovers; what else is done about it is the monitor's `act`: `warn`, `stop` or `roll_back`.
An alarm (`rzero.alarm`) turns the signals of an iteration's questions into estimates, which have limits of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rzero.alarm import RAISED, Alarm


class Collapsed(RuntimeError):
    """A run that was told to stop at a sign of collapse."""


class RollBack(Exception):
    """A phase that is to keep the weights it started from; caught by the loop."""


def warn(sign: str) -> None:
    """Does nothing more: the sign has been said."""


def stop(sign: str) -> None:
    """Ends the run; what is complete stays. Raises Collapsed."""
    raise Collapsed(f"{sign}. Change what drives it there and start a new run, or resume with collapse=warn")


def roll_back(sign: str) -> None:
    """Ends the phase; the role keeps the weights it had before. Raises RollBack."""
    raise RollBack(sign)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """`metric` should lie in [low, high] (None: open). It is a full name, or what follows the role: `kl`."""

    metric: str
    low: float | None = None
    high: float | None = None
    patience: int = 1

    def __post_init__(self) -> None:
        if self.patience < 1 or (self.low is None and self.high is None):
            raise ValueError(
                f"collapse.limits: {self.metric} needs low or high, and patience of at least 1, got {self.patience}"
            )

    def names(self, name: str) -> bool:
        return name == self.metric or name.partition("/")[2] == self.metric

    def keeps(self, value: float) -> bool:
        """Returns whether the value is inside; NaN is not."""
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)


class CollapseMonitor:
    """Watches metrics row by row. `streaks` is all it remembers: how many rows in a row each metric was outside."""

    def __init__(
        self, *, limits: Mapping[str, Limit], act: Callable[[str], None] = warn, alarm: Alarm | None = None
    ) -> None:
        self.limits, self.act, self.alarm = dict(limits), act, alarm
        self.streaks: dict[str, int] = {}

    def judge(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Returns the alarm's estimates and whether one is outside of its limits; nothing where it sees too little."""
        estimates = self.alarm(metrics) if self.alarm else {}
        raised = any(
            limit.names(name) and not limit.keeps(value)
            for name, value in estimates.items()
            for limit in self.limits.values()
        )
        return {**estimates, RAISED: float(raised)} if estimates else {}

    def begin(self, streaks: Mapping[str, int] | None = None) -> None:
        """Begins a phase, or goes on with what was remembered at its checkpoint."""
        self.streaks = dict(streaks or {})

    def look(self, metrics: Mapping[str, float], *, say: Callable[[str], None]) -> None:
        """Looks at one row. A new sign goes to `say`, then to `act`, which may raise."""
        for name, value in metrics.items():
            for limit in self.limits.values():
                if not limit.names(name):
                    continue
                streak = self.streaks[name] = 0 if limit.keeps(value) else self.streaks.get(name, 0) + 1
                if streak == limit.patience:
                    sign = f"{name} is {value:.3g}, outside [{limit.low}, {limit.high}], {streak} rows in a row"
                    say(f"warning: sign of collapse: {sign}")
                    self.act(sign)
