"""What `${...:}` in the configuration can ask for. Without torch, so that `--help` stays quick."""

from __future__ import annotations

from pathlib import Path

from omegaconf import OmegaConf

from experiments import PROJECT


def register_resolvers(run_directory: Path | None = None) -> None:
    """`${project:}` is the repository; `${run_directory:}` the folder of this run."""
    OmegaConf.register_new_resolver("project", lambda: str(PROJECT), replace=True)
    OmegaConf.register_new_resolver("run_directory", lambda: str(run_directory or "."), replace=True)
