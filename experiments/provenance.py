"""What made a run: code, versions, machine, time. Written into the run's directory as `run.json`."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import resource
import subprocess
import time
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from experiments import PROJECT
from rzero.durable import write_atomically

PACKAGES = ("torch", "transformers", "lightning", "hydra-core", "peft", "lm-eval", "math-verify", "numpy")


def commit() -> str:
    """The checked-out commit, with `+changes` when tracked files differ from it; empty outside a repository."""
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=PROJECT, capture_output=True, text=True, check=True)
        dirty = subprocess.run(["git", "diff", "--quiet", "HEAD"], cwd=PROJECT, capture_output=True, check=False)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return head.stdout.strip() + ("+changes" if dirty.returncode else "")


def write_manifest(directory: Path, cfg: DictConfig, *, finished: bool) -> None:
    """Note the start (a new attempt) or the end of an attempt: one of them, or several where a run was resumed."""
    path = directory / "run.json"
    now = time.time()
    manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"attempts": []}
    if finished:
        attempt = manifest["attempts"][-1]
        attempt["finished_unix_s"] = now
        attempt["peak_rss_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    else:
        manifest["attempts"].append({"started_unix_s": now, "commit": commit()})
    manifest |= {
        "name": cfg.name,
        "seed": cfg.seed,
        "finished": finished,
        "versions": {package: importlib.metadata.version(package) for package in PACKAGES},
        "python": platform.python_version(),
        "machine": platform.platform(),
        "threads": cfg.threads,
    }
    write_atomically(path, json.dumps(manifest, indent=1).encode())
