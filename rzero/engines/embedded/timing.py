"""How long a computation takes, where an engine chooses between two ways to the same thing."""

from __future__ import annotations

import time
from collections.abc import Callable

_REPEATS = 5


def best_seconds(work: Callable[[], object]) -> float:
    """Returns the shortest of some runs, after one that warms up."""
    work()
    taken = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return min(taken)
