"""Random numbers by name: a seed for every stage, derived from the run's seed and what the stage is called.

No stage depends on how many random numbers an earlier one drew, so a resumed run draws what the uninterrupted one
would have drawn, without any generator state on disk.
"""

from __future__ import annotations

import hashlib


def derive(seed: int, *names: str | int) -> int:
    """A 63-bit seed, a pure function of its arguments: `derive(0, "solver", 1, "rollout", 3)`."""
    text = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
