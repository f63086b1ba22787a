"""What `${...:}` in the configuration can ask for. Without torch, so that `--help` stays quick."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
from omegaconf import OmegaConf

from experiments import PROJECT


def register_resolvers(run_directory: Path | None = None) -> None:
    """`${project:}` is the repository; `${run_directory:}` the folder of this run; `${jobs_at_once:...}` as below."""
    OmegaConf.register_new_resolver("jobs_at_once", jobs_at_once, replace=True)
    OmegaConf.register_new_resolver("project", lambda: str(PROJECT), replace=True)
    OmegaConf.register_new_resolver("run_directory", lambda: str(run_directory or "."), replace=True)


def jobs_at_once(threads: int, gib: float, accelerator: str) -> int:
    """How many jobs of `threads` threads and `gib` GiB our cores and the free memory have room for, at least one.

    A job on a GPU has the machine to itself.
    """
    if accelerator != "cpu":
        return 1
    cores = len(os.sched_getaffinity(0))
    free_gib = psutil.virtual_memory().available / 2**30
    return max(1, min(cores // threads, int(free_gib // gib)))
