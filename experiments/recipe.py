"""What of a configuration decides a run's numbers, and whether two configurations are the same recipe.

A saved configuration is first put into today's words by `modern`, through one table of old names and old shapes: where
a class has moved since, or a node, results that were kept stay what they were.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

from omegaconf import DictConfig, OmegaConf

from experiments import PROJECT

NOT_THE_RECIPE = ("name", "directory", "resume", "log_seconds", "grader_alarm", "grader", "tracker")
"""What a run is called, where it was written, whom it told, and the limits of the grader's processes."""


def _suite_is_harness(data: dict[str, Any]) -> None:
    """The micro benchmarks had a suite of their own, flat; what it did not name was as it is in today's."""
    old = _node(data, "benchmarks")
    if old.get("_target_") == "evaluation.suite.Suite":
        folder = PROJECT / "conf" / "benchmarks"
        parts = [OmegaConf.load(folder / f"{name}.yaml") for name in ("_harness", "micro")]
        today: Any = OmegaConf.to_container(OmegaConf.merge(*parts), resolve=False)
        del today["defaults"]
        today["source"]["source"] = old["benchmarks"]
        today["protocol"].update(
            {key: value for key, value in old.items() if key in today["protocol"] and key[0] != "_"}
        )
        data["benchmarks"] = today


SHAPES: tuple[Callable[[dict[str, Any]], None], ...] = (_suite_is_harness,)
"""Each brings one node of an old configuration, names already today's, into today's shape, in place."""


def _node(data: dict[str, Any], *keys: str) -> dict[str, Any]:
    """The dictionary below these keys; an empty one where there is none."""
    for key in keys:
        found = data.get(key)
        data = found if isinstance(found, dict) else {}
    return data


def modern(saved: DictConfig) -> DictConfig:
    """A saved configuration in today's names and shapes; interpolations stay. One of today comes back as it is."""
    data: Any = OmegaConf.to_container(saved, resolve=False)
    for reshape in SHAPES:
        reshape(data)
    return OmegaConf.create(data)


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

    return same(recipe(modern(then)), recipe(now))
