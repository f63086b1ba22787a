"""What of a configuration decides a run's numbers, and whether two configurations are the same recipe."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from omegaconf import DictConfig, OmegaConf

NOT_THE_RECIPE = ("name", "directory", "resume", "log_seconds", "grader_alarm", "grader", "tracker")
"""What a run is called, where it was written, whom it told, and the limits of the grader's processes."""


def recipe(cfg: DictConfig) -> dict[str, Any]:
    """Plain data with interpolations left as they are: the same on every machine and in every checkout."""
    data = OmegaConf.to_container(cfg, resolve=False)
    assert isinstance(data, dict)
    return {str(key): value for key, value in data.items() if key not in NOT_THE_RECIPE}


def fingerprint(cfg: DictConfig) -> str:
    """Eight hexadecimal digits that change with the recipe."""
    return hashlib.sha256(json.dumps(recipe(cfg), sort_keys=True).encode()).hexdigest()[:8]


def agrees(then: DictConfig, now: DictConfig) -> bool:
    """Whether a saved configuration is today's.

    Keys that did not exist then do not count: a new choice's default has to leave old results as they were.
    """

    def same(old: Any, new: Any) -> bool:
        if isinstance(old, dict) and isinstance(new, dict):
            return all(key in new and same(old[key], new[key]) for key in old)
        return bool(old == new)

    return same(recipe(then), recipe(now))
