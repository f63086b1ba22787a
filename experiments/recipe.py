"""The part of a configuration that decides a run's numbers, and whether two configurations are the same recipe.

A saved configuration is first put into today's words by `modern`, through one table of old names and old shapes:
results that were kept stay what they were where a class has moved since, or a node.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from experiments import PROJECT
from rzero.types import Json

NOT_THE_RECIPE = ("name", "directory", "resume", "log_seconds", "grader_alarm", "grader", "tracker")
"""A run's name, where it was written, whom it told, and the limits of the grader's processes."""

ONLY_SAID = "rzero.collapse.warn"
"""What is done at signs that are only said: which limits there are then changes no number of a run."""

BENCHMARKS = PROJECT / "conf" / "benchmarks"

NAMES: Mapping[str, str] = {
    "rzero.engines.resident.Resident": "rzero.engines.vllm.in_process.InProcessVllm",
    "rzero.engines.fleet.Fleet": "rzero.engines.vllm.servers.VllmServers",
    "rzero.engines.replica.Patience": "rzero.engines.vllm.server_client.Timeouts",
}
"""Old `_target_` or `path` -> today's."""


def _groups_are_seen(data: Json) -> None:
    """A Solver reward was told the group size once; it sees the groups."""
    _node(data, "solver", "reward").pop("group_size", None)


def _patience_is_timeouts(data: Json) -> None:
    host = _node(data, "engine", "host")
    if "patience" in host:
        host["timeouts"] = host.pop("patience")


def _suite_is_harness(data: Json) -> None:
    """The micro benchmarks had a suite of their own, flat; what it did not name was as it is in today's."""
    old = _node(data, "benchmarks")
    if old.get("_target_") == "evaluation.suite.Suite":
        parts = [OmegaConf.load(BENCHMARKS / f"{name}.yaml") for name in ("_harness", "micro")]
        today: Any = OmegaConf.to_container(OmegaConf.merge(*parts), resolve=False)
        del today["defaults"]
        today["source"]["source"] = old["benchmarks"]
        today["protocol"].update({key: old[key] for key in old.keys() & today["protocol"].keys() - {"_target_"}})
        data["benchmarks"] = today


def _engine_is_in_the_key(data: Json) -> None:
    """Responses were kept without regard to the engine that drew them."""
    suite = _node(data, "benchmarks")
    if suite.get("_target_") == "evaluation.harness.HarnessSuite" and "drawn_by" not in suite:
        today = OmegaConf.load(BENCHMARKS / "_harness.yaml")
        suite["drawn_by"] = OmegaConf.to_container(OmegaConf.select(today, "drawn_by"), resolve=False)


def _precision_is_named(data: Json) -> None:
    """Float32 products were never rounded before there was a choice."""
    data.setdefault("matmul_precision", "highest")


def _weights_travelled_as_files(data: Json) -> None:
    """To vLLM servers, before there was a choice."""
    host = _node(data, "engine", "host")
    if host.get("_target_") == "rzero.engines.vllm.servers.VllmServers":
        host.setdefault("transfer", {"_target_": "rzero.engines.vllm.transfer.ThroughFiles"})


def _rows_waited(data: Json) -> None:
    """Until a batch had ended, before others could join it."""
    engine = _node(data, "engine")
    if engine.get("_target_") == "rzero.engines.embedded.EmbeddedEngine":
        engine.setdefault("refill", False)


SHAPES: tuple[Callable[[Json], None], ...] = (
    _groups_are_seen,
    _patience_is_timeouts,
    _suite_is_harness,
    _engine_is_in_the_key,
    _precision_is_named,
    _weights_travelled_as_files,
    _rows_waited,
)
"""Each brings one node of an old configuration, names already today's, into today's shape, in place."""


def _node(data: Json, *keys: str) -> Json:
    """The dictionary below these keys; an empty one where there is none."""
    for key in keys:
        found = data.get(key)
        data = found if isinstance(found, dict) else {}
    return data


def modern(saved: DictConfig) -> DictConfig:
    """A saved configuration in today's names and shapes; interpolations stay. One of today comes back as it is."""
    return OmegaConf.create(_modern(saved))


def _modern(saved: DictConfig) -> Json:
    data: Json = _renamed(OmegaConf.to_container(saved, resolve=False))
    for reshape in SHAPES:
        reshape(data)
    return data


def _renamed(node: Any) -> Any:
    if isinstance(node, dict):
        return {
            key: NAMES.get(value, value) if key in ("_target_", "path") and isinstance(value, str) else _renamed(value)
            for key, value in node.items()
        }
    return [_renamed(item) for item in node] if isinstance(node, list) else node


def recipe(cfg: DictConfig) -> Json:
    """Plain data with interpolations left as they are: the same on every machine and in every checkout."""
    data = OmegaConf.to_container(cfg, resolve=False)
    assert isinstance(data, dict)
    return _of_recipe(data)


def _of_recipe(data: Mapping[Any, Any]) -> Json:
    found: Json = {str(key): value for key, value in data.items() if key not in NOT_THE_RECIPE}
    act = _node(found, "collapse", "act")
    return {**found, "collapse": {"act": act}} if act.get("path") == ONLY_SAID else found


def fingerprint(cfg: DictConfig) -> str:
    """Eight hexadecimal digits that change with the recipe."""
    return hashlib.sha256(json.dumps(recipe(cfg), sort_keys=True).encode()).hexdigest()[:8]


def agrees(then: DictConfig, now: DictConfig, *, default: DictConfig) -> bool:
    """Whether a saved configuration is today's.

    A key that did not exist then has to be what it is in today's `default`: a choice that is new leaves old results as
    they were where it was not made, and nowhere else.
    """

    def same(old: Any, new: Any, usual: Any) -> bool:
        if not (isinstance(old, dict) and isinstance(new, dict)):
            return bool(old == new)
        usual = usual if isinstance(usual, dict) else {}
        return all(key in new and same(old[key], new[key], usual.get(key)) for key in old) and all(
            new[key] == usual[key] for key in new.keys() - old.keys() if key in usual
        )

    return same(_of_recipe(_modern(then)), recipe(now), recipe(default))
