"""The provenance of a run: code, versions, machine, time. Written into the run's directory as `run.json`."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import re
import resource
import subprocess
import time
from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from experiments import PROJECT
from rzero.durable import write_atomically
from rzero.runs.directory import RunDirectory
from rzero.types import Json

PACKAGES = ("torch", "transformers", "lightning", "hydra-core", "peft", "lm-eval", "math-verify", "numpy")


def commit() -> str:
    """Return the checked-out commit, with `+changes` when tracked files differ from it; empty outside a repository."""
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=PROJECT, capture_output=True, text=True, check=True)
        dirty = subprocess.run(["git", "diff", "--quiet", "HEAD"], cwd=PROJECT, capture_output=True, check=False)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return head.stdout.strip() + ("+changes" if dirty.returncode else "")


SECRET = re.compile(r"(^|_)(api_?key|key|token|secret|password|credentials?)$", re.IGNORECASE)
WITHHELD = "(withheld)"


def public_config(cfg: DictConfig) -> Json:
    """Return the configuration as a tracker may show it to others.

    Interpolations stay as they are written, so that what they read from the environment stays here, and text under a
    key that sounds like a secret is withheld.
    """
    plain = OmegaConf.to_container(cfg, resolve=False)
    assert isinstance(plain, dict)
    return {str(key): _without_secrets(str(key), value) for key, value in plain.items()}


def _without_secrets(key: str, value: object) -> object:
    if isinstance(value, dict):
        return {str(name): _without_secrets(str(name), item) for name, item in value.items()}
    if isinstance(value, list):
        return [_without_secrets(key, item) for item in value]
    return WITHHELD if isinstance(value, str) and SECRET.search(key) else value


def start_day(directory: Path) -> date:
    """Return the date (UTC) on which a run began, which its prompts go on to show; today's where no run has begun.

    Raises ValueError when the run's manifest holds something else.
    """
    path = RunDirectory(directory).manifest
    if not path.exists():
        return datetime.now(UTC).date()
    try:
        return date.fromisoformat(_day_in(json.loads(path.read_bytes())))
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise ValueError(f"{path} does not say when the run began ({error!r}); restore it") from error


def _day_in(manifest: Json) -> str:
    """The date in a manifest; earlier versions wrote down the time of each attempt only."""
    if "date" in manifest:
        return str(manifest["date"])
    return datetime.fromtimestamp(manifest["attempts"][0]["started_unix_s"], UTC).date().isoformat()


def write_manifest(
    directory: Path, cfg: DictConfig, *, finished: bool, repaired: Sequence[str] = (), stages: Sequence[Json] = ()
) -> str:
    """Note the start (a new attempt) or the end of an attempt: one of them, or several where a run was resumed.

    `repaired`: what an attempt found damaged and gave up. `stages`: at the end, what each stage of the run says about
    itself; theirs is all that is known of time and memory where an attempt was killed. Returns a warning when the file
    itself was damaged: it is kept as run.damaged.json, and the times of earlier attempts are lost. The environment is
    never written down.
    """
    path, warning = RunDirectory(directory).manifest, ""
    now = time.time()
    manifest: Json = {"attempts": []}
    day = datetime.fromtimestamp(now, UTC).date().isoformat()
    if path.exists():
        try:
            earlier = json.loads(path.read_bytes())
            manifest["attempts"], day = list(earlier["attempts"]), _day_in(earlier)
        except (ValueError, KeyError, TypeError, IndexError) as error:
            path.rename(path.with_name("run.damaged.json"))
            warning = f"{path} is damaged ({error}); the times of earlier attempts are lost, and the date in prompts"
    if finished:
        from rzero.processes.memory import peak_resident_gib

        manifest["attempts"][-1] |= {
            "finished_unix_s": now,
            "peak_rss_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
            "peak_rss_all_gib": peak_resident_gib(),
        }
        manifest["stages"] = _totals(stages)
    else:
        from rzero.processes.cpu import describe_cpu

        attempt: Json = {"started_unix_s": now, "commit": commit(), "cpu": describe_cpu()}
        manifest["attempts"].append(attempt | ({"repaired": list(repaired)} if repaired else {}))
    manifest |= {
        "name": cfg.name,
        "seed": cfg.seed,
        "date": day,
        "finished": finished,
        "versions": {package: importlib.metadata.version(package) for package in PACKAGES},
        "python": platform.python_version(),
        "machine": platform.platform(),
        "threads": cfg.threads,
    }
    write_atomically(path, json.dumps(manifest, indent=1).encode())
    return warning


def _totals(stages: Sequence[Json]) -> Json:
    """Return the seconds of all stages, and the most memory that all processes together had at the end of one (GiB).

    The memory is None where a stage does not say: those of earlier versions did not.
    """
    peaks: list[float] = [stage["peak_rss_gib"] for stage in stages if "peak_rss_gib" in stage]
    return {
        "seconds": sum(stage["seconds"] for stage in stages),
        "peak_rss_gib": max(peaks, default=None) if len(peaks) == len(stages) else None,
    }
