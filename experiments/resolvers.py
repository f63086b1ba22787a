"""What `${...:}` in the configuration can ask for. Without torch, so that `--help` stays quick."""

from __future__ import annotations

from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import OmegaConf

from experiments import PROJECT


def register_resolvers(run_directory: Path | None = None) -> None:
    """`${project:}` is the repository; `${run_directory:}` the folder of this run; `${group:x}` its sweep, else x."""
    OmegaConf.register_new_resolver("project", lambda: str(PROJECT), replace=True)
    OmegaConf.register_new_resolver("run_directory", lambda: str(run_directory or "."), replace=True)
    OmegaConf.register_new_resolver("group", group, replace=True)


def group(alone: str) -> str:
    """What the runs of one sweep share: the sweep's name and start. `alone` for a run that belongs to no sweep."""
    if not HydraConfig.initialized():
        return alone
    hydra = HydraConfig.get()
    if hydra.mode != RunMode.MULTIRUN:
        return alone
    return f"{hydra.runtime.choices.get('sweeps') or alone}_{Path(hydra.sweep.dir).name}"
