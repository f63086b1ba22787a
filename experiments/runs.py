"""Finished runs as small files: looked for in the store, run where they are missing, read back.

A folder of the store, <root>/<model and treatment>/seed<k>/, holds the configuration, the manifest, all scores and the
metrics by round of one run. What a run itself writes (weights, questions) stays in its working directory, from which a
run that was stopped goes on.
"""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from evaluation.metrics import Scores
from experiments import PROJECT
from experiments.overrides import refuse_old
from experiments.recipe import agrees
from experiments.resolvers import register_resolvers
from experiments.rundir import finished, locked
from rzero.durable import write_atomically
from rzero.tracking import read_metrics

STORE = PROJECT / "experiments" / "results"
WORK = PROJECT / "outputs" / "results"
ROUND_METRICS = ("audit/", "curriculum/")
ANALYSES = "analyses.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """A recipe of the store. after: the arm whose last Solver this one starts from, seed by seed.

    analysed: `experiments.analyse` is wanted too. It needs the weights, which the store does not hold: a kept run whose
    working directory is gone is run once more.
    """

    folder: str
    overrides: tuple[str, ...]
    after: Arm | None = None
    analysed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One finished run: scores of the base model and of every round, metrics by round, manifest.

    matrix[i][j]: how hard the questions of round i + 1 are for Solver j (0: the base model); empty where it was not
    analysed.
    """

    seed: int
    scores: tuple[Scores, ...]
    rounds: tuple[dict[str, float], ...]
    manifest: dict[str, Any]
    matrix: tuple[tuple[dict[str, Any], ...], ...] = ()

    @property
    def wall_minutes(self) -> float:
        return sum(a.get("finished_unix_s", a["started_unix_s"]) - a["started_unix_s"] for a in self.attempts) / 60

    @property
    def peak_rss_gib(self) -> float:
        return max(attempt.get("peak_rss_gib", 0.0) for attempt in self.attempts)

    @property
    def attempts(self) -> list[dict[str, Any]]:
        """One for an uninterrupted run. Of an attempt that was killed, neither its end nor its memory is known."""
        return list(self.manifest["attempts"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """`root` keeps the small files, `work` the run directories. extra: overrides that every run is given on top."""

    root: Path
    work: Path
    extra: tuple[str, ...] = ()

    def folder(self, arm: Arm, seed: int) -> Path:
        return self.root / arm.folder / f"seed{seed}"

    def directory(self, arm: Arm, seed: int) -> Path:
        return self.work / arm.folder / f"seed{seed}"

    def overrides(self, arm: Arm, seed: int) -> list[str]:
        """What a run is started with, apart from its directory."""
        start = [f"policy.path_or_id='{self._last_solver(arm.after, seed)}'"] if arm.after else []
        return [*arm.overrides, f"seed={seed}", *self.extra, *start]

    def config(self, arm: Arm, seed: int) -> DictConfig:
        """Today's configuration of a run."""
        return composed(self.overrides(arm, seed))

    def has(self, arm: Arm, seed: int) -> bool:
        """Whether the run is kept and of today's recipe."""
        folder = self.folder(arm, seed)
        wanted = ["result.json", *([ANALYSES] if arm.analysed else [])]
        return all((folder / name).exists() for name in wanted) and same_recipe(
            folder / "config.yaml", self.config(arm, seed)
        )

    def load(self, arm: Arm, seed: int) -> Run:
        return load(self.folder(arm, seed), seed)

    def _last_solver(self, arm: Arm, seed: int) -> str:
        """Written so that a saved configuration means the same in every checkout."""
        directory = self.directory(arm, seed) / f"iteration_{self.config(arm, seed).iterations}" / "solver"
        if directory.is_relative_to(PROJECT):
            return "${project:}/" + str(directory.relative_to(PROJECT))
        return str(directory)


def composed(overrides: Sequence[str]) -> DictConfig:
    """The configuration of these overrides. It is kept for the next who asks, and therefore only to be read."""
    return _composed(tuple(overrides))


@functools.cache
def _composed(overrides: tuple[str, ...]) -> DictConfig:
    register_resolvers()
    refuse_old(overrides)
    with initialize_config_dir(config_dir=str(PROJECT / "conf"), version_base="1.3"):
        config = compose("config", overrides=list(overrides))
    OmegaConf.set_readonly(config, True)
    return config


def same_recipe(saved: Path, now: DictConfig) -> bool:
    """Whether a saved configuration is today's, apart from where it was run."""
    then = OmegaConf.load(saved)
    assert isinstance(then, DictConfig)
    return agrees(then, now, default=composed(()))


def digest(directory: Path) -> dict[str, Any]:
    """What is worth keeping of a run directory, as one small record: metrics of each round and all scores."""
    metrics = read_metrics(directory / "metrics.jsonl")
    rounds: dict[int, dict[str, float]] = {}
    for row in metrics:
        entry = rounds.setdefault(int(row["iteration"]), {})
        for role in ("challenger", "solver"):
            if f"{role}/reward" in row:
                entry.setdefault(f"{role}/first_reward", row[f"{role}/reward"])
                entry[f"{role}/reward"] = row[f"{role}/reward"]
                entry[f"{role}/kl"] = row.get(f"{role}/kl", 0.0)
                entry[f"{role}/length"] = row[f"{role}/completions/mean_length"]
        entry.update({name: value for name, value in row.items() if name.startswith(ROUND_METRICS)})
    last = max(rounds)
    scores = [
        json.loads((directory / f"iteration_{i}" / "evaluation.json").read_text(encoding="utf-8"))
        for i in range(last + 1)
    ]
    return {"rounds": [rounds.get(i, {}) for i in range(last + 1)], "scores": scores}


def load(folder: Path, seed: int) -> Run:
    """A run from a folder of the store."""
    record = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    analyses = folder / ANALYSES
    matrix = json.loads(analyses.read_text(encoding="utf-8"))["matrix"] if analyses.exists() else []
    return Run(
        seed=seed,
        scores=tuple(map(Scores.from_json, record["scores"])),
        rounds=tuple(record["rounds"]),
        manifest=json.loads((folder / "run.json").read_text(encoding="utf-8")),
        matrix=tuple(map(tuple, matrix)),
    )


def keep(directory: Path, folder: Path) -> None:
    """Copy the small files of a finished run into the store; what is there already and the same stays as it is."""
    folder.mkdir(parents=True, exist_ok=True)
    result = json.dumps(digest(directory)).encode()
    if not (folder / "result.json").exists() or (folder / "result.json").read_bytes() != result:
        for name in ("config.yaml", "run.json"):
            shutil.copyfile(directory / name, folder / name)
        write_atomically(folder / "result.json", result)
    if (directory / ANALYSES).exists():
        shutil.copyfile(directory / ANALYSES, folder / ANALYSES)


def execute(arm: Arm, seed: int, store: Store) -> None:
    """Run an arm in a process of its own, or go on with it, and keep its figures.

    Raises RuntimeError with the end of its error output when it fails; the run directory stays, and the next call goes
    on from its last complete stage.
    """
    directory = store.directory(arm, seed)
    if arm.after:
        # the store does not hold its weights: where its directory is gone, it is run once more
        finish(store.directory(arm.after, seed), store.overrides(arm.after, seed))
    if not finish(directory, store.overrides(arm, seed)):
        raise RuntimeError(f"{directory} is not finished; see its metrics.jsonl and start again")
    if arm.analysed and not (directory / ANALYSES).exists():
        _command("experiments.analyse", str(directory))
    keep(directory, store.folder(arm, seed))


def finish(directory: Path, overrides: Sequence[str]) -> bool:
    """Bring a run directory to its end: a finished one is left alone, one of another recipe is removed first."""
    saved = directory / "config.yaml"
    if directory.exists():
        with locked(directory, wait=True):
            pass  # a run of an earlier command that was killed may still be at it; what it finishes is not done twice
        if not (saved.exists() and same_recipe(saved, composed(overrides))):
            shutil.rmtree(directory)
    if not finished(directory):
        where = [f"resume={directory}"] if saved.exists() else [*overrides, f"directory={directory}"]
        _command("experiments.run", *where)
    return finished(directory)


def _command(module: str, *arguments: str) -> None:
    """A command in a process of its own; RuntimeError with the end of its error output when it fails."""
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with code {done.returncode}:\n{done.stderr[-2000:]}")


def complete(arms: Sequence[Arm], seeds: Sequence[int], *, store: Store, jobs: int, console: Console) -> None:
    """See to it that every run is in the store; those that are missing are run, `jobs` at a time."""
    todo = [(arm, seed) for arm in arms for seed in seeds if not store.has(arm, seed)]
    if todo:
        console.print(
            f"{len(todo)} runs are missing or of another recipe; running them, {jobs} at a time", style="bold"
        )
    for later in (False, True):  # an arm that starts from another one's Solver comes after it
        wave = [(arm, seed) for arm, seed in todo if bool(arm.after) == later]
        with ThreadPoolExecutor(jobs) as pool:
            started = [(arm, seed, pool.submit(execute, arm, seed, store)) for arm, seed in wave]
            try:
                for arm, seed, future in started:
                    future.result()
                    console.print(f"{arm.folder}, seed {seed}: done", highlight=False)
            except KeyboardInterrupt:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
