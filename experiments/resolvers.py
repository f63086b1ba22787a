"""Functions that `${...:}` in the configuration can ask for. Without torch, so that `--help` stays quick."""

from __future__ import annotations

import math
import os
from pathlib import Path

import psutil
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from experiments import PROJECT
from rzero.escaping import slug


def register_resolvers(run_directory: Path | None = None) -> None:
    """`${project:}` is the repository, `${run_directory:}` the folder of this run; the others are functions below."""
    OmegaConf.register_new_resolver("project", lambda: str(PROJECT), replace=True)
    OmegaConf.register_new_resolver("run_directory", lambda: str(run_directory or "."), replace=True)
    OmegaConf.register_new_resolver("group", group, replace=True)
    OmegaConf.register_new_resolver("product", lambda *factors: math.prod(factors), replace=True)
    OmegaConf.register_new_resolver("rollout_device", rollout_device, replace=True)
    OmegaConf.register_new_resolver("jobs_at_once", jobs_at_once, replace=True)
    OmegaConf.register_new_resolver("gpus", gpus, replace=True)
    OmegaConf.register_new_resolver("model_name", model_name, replace=True)
    OmegaConf.register_new_resolver("choices", choices, replace=True)


def group(alone: str) -> str:
    """Returns a name that the runs of one sweep share: its name and start. `alone` for a run outside of sweeps."""
    if not HydraConfig.initialized():
        return alone
    hydra = HydraConfig.get()
    if hydra.mode != RunMode.MULTIRUN:
        return alone
    return f"{hydra.runtime.choices.get('sweeps') or alone}_{Path(hydra.sweep.dir).name}"


def model_name(path_or_id: str) -> str:
    """The last part of a directory or hub id, as a part of a file name."""
    return slug(path_or_id.rstrip("/").rpartition("/")[2])


def choices(*, _root_: DictConfig) -> str:
    """Each slot that the composed defaults list offers, spelled as an override, with the options of its group."""
    slots = _root_.hydra.runtime.choices
    sources = [Path(source.path) for source in _root_.hydra.runtime.config_sources if source.schema == "file"]
    lines = []
    for slot in sorted(slots):
        group = slot.partition("@")[0]
        names = {path.stem for source in sources for path in (source / group).glob("[!_]*.yaml")}
        if names and not group.startswith("hydra"):
            lines.append(f"{slot}: {', '.join(sorted(names))}")
    return "\n".join(lines)


def gpus(count: int) -> list[str]:
    """The GPUs of `count` processes as CUDA_VISIBLE_DEVICES names them, one each; 0, 1, ... where it is not set.

    Raises ValueError where it names fewer.
    """
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    if visible and len(visible) < count:
        raise ValueError(f"CUDA_VISIBLE_DEVICES names {len(visible)} devices for {count} processes (trainer.devices)")
    return (visible or [str(number) for number in range(count)])[:count]


def rollout_device(accelerator: str) -> str | None:
    """Returns where the embedded engine draws: the GPU of a trainer on GPUs, else (None) where the policy is."""
    return "cuda" if accelerator in ("gpu", "cuda") else None


def jobs_at_once(threads: int, gib: float, accelerator: str) -> int:
    """How many jobs of `threads` threads and `gib` GiB our cores and the free memory have room for, at least one.

    A job on a GPU has the machine to itself.
    """
    if accelerator != "cpu":
        return 1
    cores = len(os.sched_getaffinity(0))
    free_gib = psutil.virtual_memory().available / 2**30
    return max(1, min(cores // threads, int(free_gib // gib)))
