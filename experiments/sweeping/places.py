"""Where a sweep and its jobs are written: by what they are, not by when they started, so that a sweep goes on."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from hydra.conf import HydraConf
from omegaconf import DictConfig

from experiments.recipe import NOT_THE_RECIPE, fingerprint
from rzero.escaping import slug

LONGEST_NAME = 60


def expand_sweep(arguments: Sequence[str]) -> list[str]:
    """A multirun's arguments with its directory spelled out for Hydra: multirun/<sweep>/<hash of the overrides>.

    Flags of Hydra and the choice of a launcher do not change what is computed and are left out of the hash. A directory
    that the user gave (`hydra.sweep.dir=...`) stays; arguments of a single run are returned as they are.
    """
    if not is_sweep(arguments) or any(key == "hydra.sweep.dir" for key, _, _ in map(_parts, arguments)):
        return list(arguments)
    overrides = sorted(text for text in arguments if not text.startswith(("-", "hydra")))
    digest = hashlib.sha256("\n".join(overrides).encode()).hexdigest()[:8]
    chosen = _sweeps(arguments)
    name = slug(chosen[-1]) if chosen else "overrides"
    return [*arguments, f"hydra.sweep.dir=multirun/{name}/{digest}"]


def is_sweep(arguments: Sequence[str]) -> bool:
    """Return whether arguments are those of a multirun."""
    return bool(_sweeps(arguments) or {"-m", "--multirun", "hydra.mode=MULTIRUN"} & set(arguments))


def _sweeps(arguments: Sequence[str]) -> list[str]:
    return [value for key, _, value in map(_parts, arguments) if key == "sweeps" and value != "null"]


def spoken_overrides(job: HydraConf) -> list[str]:
    """The overrides that people know a job by: those a sweep's file varies and the seed, or all of a plain multirun."""
    named = [text for text in job.overrides.task if not _parts(text)[0].startswith(("hydra", "sweeps"))]
    varied = {*(job.sweeper.get("params") or {}), "seed"}
    return [text for text in named if _parts(text)[0] in varied] or named


def job_directory(cfg: DictConfig, job: HydraConf) -> Path:
    """The run directory of a job: named by its overrides for people and by its recipe, so that it is never mistaken."""
    spoken = "_".join(f"{key.rpartition('.')[2]}-{value}" for key, _, value in map(_parts, spoken_overrides(job)))
    return Path(job.runtime.output_dir) / f"{slug(spoken, max_chars=LONGEST_NAME)}_{_digest(cfg, job)}"


def _digest(cfg: DictConfig, job: HydraConf) -> str:
    """Eight hexadecimal digits that change with the recipe, and with what a job was given besides."""
    besides = [text for text in job.overrides.task if re.split("[.@=]", text.lstrip("+"))[0] in NOT_THE_RECIPE]
    if not besides:
        return fingerprint(cfg)
    return hashlib.sha256("\n".join([fingerprint(cfg), *sorted(besides)]).encode()).hexdigest()[:8]


def _parts(override: str) -> tuple[str, str, str]:
    return override.partition("=")
