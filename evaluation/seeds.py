"""Estimates over several seeds: a mean, its 95 % interval, and how sure a sign is. Student's t over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LEVEL = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A mean over `seeds` values with its two-sided 95 % interval; both bounds are None for a single seed.

    positive: how sure one may be that the true mean lies above 0, in [0, 1] (the one-sided t test's confidence); None
    for a single seed.
    """

    mean: float
    low: float | None
    high: float | None
    positive: float | None
    seeds: int

    @property
    def text(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.mean:+.2f}"
        return f"{self.mean:+.2f} [{self.low:+.2f}, {self.high:+.2f}]"


def over_seeds(values: Sequence[float]) -> Estimate:
    """Mean of one value per seed. Raises ValueError without any.

    The interval is mean +- t(0.975, n-1) s / sqrt(n). Equal values have no spread to judge by: their interval is the
    value itself.
    """
    if not values:
        raise ValueError("an estimate needs at least one seed")
    mean, n = float(np.mean(values)), len(values)
    if n == 1:
        return Estimate(mean=mean, low=None, high=None, positive=None, seeds=1)
    error = float(np.std(values, ddof=1)) / n**0.5
    if error == 0.0:
        return Estimate(mean=mean, low=mean, high=mean, positive=float(np.sign(mean) + 1) / 2, seeds=n)
    from scipy import stats  # takes a second to import

    half = float(stats.t.ppf((1 + LEVEL) / 2, n - 1)) * error
    sure = float(stats.t.cdf(mean / error, n - 1))
    return Estimate(mean=mean, low=mean - half, high=mean + half, positive=sure, seeds=n)
