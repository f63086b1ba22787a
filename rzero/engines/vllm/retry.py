"""An engine that dies in the middle of a call is replaced, and the call is made again.

A call is a pure function of weights, prompts and sampling (its seed included), so the second attempt gives what the
first would have given.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class EngineDied(RuntimeError):
    """An engine, or one replica of it, is gone or no longer answers. The message says which and what it was doing."""


def retry_when_dead(work: Callable[[], T], *, revive: Callable[[], None], retries: int) -> T:
    """`work()`; each time the engine dies, `revive()` and again, at most `retries` times.

    Reviving may fail like work does. Raises RuntimeError, with the last cause, when the engine keeps dying.
    """
    for attempt in range(retries + 1):
        try:
            if attempt:
                revive()
            return work()
        except EngineDied as death:
            last = death
    raise RuntimeError(
        f"the rollout engine died {retries + 1} times in one call (engine.retries={retries}); last: {last}"
    ) from last
