"""Finished runs as small files: looked for in the store, read back, and run where they are missing, if so told.

A folder of the store, <root>/<model and treatment>/seed<k>/, holds the configuration, the manifest, all scores and the
metrics by iteration of one run. What a run itself writes (weights, questions) stays in its working directory, where a
run that was stopped goes on.
"""

from __future__ import annotations

import copy
import functools
import json
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Protocol

from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from evaluation.metrics import Scores
from experiments import PROJECT
from experiments.compose import compose
from experiments.processes import carry_out
from experiments.recipe import agrees
from experiments.rundir import finished, locked
from experiments.terminal import progress
from rzero.durable import write_atomically
from rzero.runs.directory import RunDirectory
from rzero.tracking import read_metrics
from rzero.types import Json

STORE = PROJECT / "experiments" / "results"
WORK = PROJECT / "outputs" / "results"
KEPT_METRICS = ("acceptance/", "audit/", "curriculum/", "signals/")
ADDED_UP = "extra/"
"""Metrics of which an iteration's rows each have a part."""
RESULT = "result.json"


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
class KeptRun:
    """One finished run: scores and metrics of the base model (0) and of every iteration, and the manifest.

    matrix[i][j]: how hard the questions of iteration i + 1 are for Solver j (0: the base model); empty where it was not
    analysed.
    """

    seed: int
    scores: tuple[Scores, ...]
    iterations: tuple[dict[str, float], ...]
    manifest: Json
    matrix: tuple[tuple[Json, ...], ...] = ()

    @property
    def wall_minutes(self) -> float:
        return wall_minutes(self.manifest)

    @property
    def peak_rss_gib(self) -> float:
        return peak_rss_gib(self.manifest)

    @property
    def attempts(self) -> list[Json]:
        """One for an uninterrupted run. Of an attempt that was killed, neither its end nor its memory is known."""
        return list(self.manifest["attempts"])


def wall_minutes(manifest: Json) -> float:
    """Return the wall clock of all attempts; where one was killed, at least that of all stages if it is known."""
    seconds = sum(a.get("finished_unix_s", a["started_unix_s"]) - a["started_unix_s"] for a in manifest["attempts"])
    if not _ended(manifest):
        seconds = max(seconds, _stages(manifest).get("seconds", 0.0))
    return float(seconds / 60)


def said_minutes(manifest: Json) -> str:
    """Return `wall_minutes` for a table, behind ≥ where an attempt was killed and its last part is lost."""
    return f"{'' if _ended(manifest) else '≥ '}{wall_minutes(manifest):.0f}"


def peak_rss_gib(manifest: Json) -> float:
    """Return the most memory that is known of an attempt or a stage, of all processes.

    Earlier versions wrote down that of the first process alone.
    """
    known: list[float] = [
        attempt.get("peak_rss_all_gib") or attempt.get("peak_rss_gib") or 0.0 for attempt in manifest["attempts"]
    ]
    return max([*known, _stages(manifest).get("peak_rss_gib") or 0.0])


def knows_peak(manifest: Json) -> bool:
    """Return whether all attempts ended, or all stages say what memory there was up to their end.

    Of one that was killed, what it had in its last stage is not known; whoever went on did the same work again.
    """
    return _ended(manifest) or _stages(manifest).get("peak_rss_gib") is not None


def said_peak(manifest: Json) -> str:
    """Return `peak_rss_gib` for a table, behind ≥ where not all complete stages are looked at (`knows_peak`)."""
    return f"{'' if knows_peak(manifest) else '≥ '}{peak_rss_gib(manifest):.1f}"


def _ended(manifest: Json) -> bool:
    return all("finished_unix_s" in attempt for attempt in manifest["attempts"])


def _stages(manifest: Json) -> Json:
    return dict(manifest.get("stages", {}))


def to_six_digits(metrics: Mapping[str, float | None]) -> dict[str, float]:
    """Return the metrics that are there, rounded: a kept file need not hold the noise behind them."""
    return {name: float(f"{value:.6g}") for name, value in metrics.items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """`root` keeps the small files, `work` the run directories.

    extra: overrides that every run is given on top. config_dir: a user's own folder of options that they may name.
    """

    root: Path
    work: Path
    extra: tuple[str, ...] = ()
    config_dir: Path | None = None

    def folder(self, arm: Arm, seed: int) -> Path:
        return self.root / arm.folder / f"seed{seed}"

    def directory(self, arm: Arm, seed: int) -> Path:
        return self.work / arm.folder / f"seed{seed}"

    def overrides(self, arm: Arm, seed: int) -> list[str]:
        """Return what a run is started with, apart from its directory."""
        start = [f"policy.path_or_id={self._last_solver(arm.after, seed)}"] if arm.after else []
        return [*arm.overrides, f"seed={seed}", *self.extra, *start]

    def config(self, arm: Arm, seed: int) -> DictConfig:
        """Return today's configuration of a run: that of its arm with this seed."""
        config = copy.deepcopy(composed((*arm.overrides, *self.extra), config_dir=self.config_dir))
        OmegaConf.set_readonly(config, False)
        if not any(text.startswith("seed=") for text in self.extra):
            config.seed = seed
        if arm.after:
            config.policy.path_or_id = self._last_solver(arm.after, seed)
        return config

    def lacks(self, arm: Arm, seed: int) -> str:
        """Return why a run does not count as kept; empty when it does."""
        folder = self.folder(arm, seed)
        kept = RunDirectory(folder)
        wanted = [folder / RESULT, *([kept.analyses] if arm.analysed else [])]
        if lost := [path.name for path in wanted if not path.exists()]:
            return f"there is no {' and no '.join(lost)} in {folder}"
        if not same_recipe(kept.config, self.config(arm, seed)):
            return f"{kept.config} is of another recipe"
        return ""

    def has(self, arm: Arm, seed: int) -> bool:
        """Return whether the run is kept and of today's recipe."""
        return not self.lacks(arm, seed)

    def load(self, arm: Arm, seed: int) -> KeptRun:
        return load(self.folder(arm, seed), seed)

    def _last_solver(self, arm: Arm, seed: int) -> str:
        """Return its path, written so that a saved configuration means the same in every checkout."""
        last = int(self.config(arm, seed).iterations)
        directory = RunDirectory(self.directory(arm, seed)).weights("solver", last)
        if directory.is_relative_to(PROJECT):
            return "${project:}/" + str(directory.relative_to(PROJECT))
        return str(directory)


def composed(overrides: Sequence[str], *, config_dir: Path | None = None) -> DictConfig:
    """Return the configuration of these overrides, only to be read: it is kept for the next who asks.

    Composing takes most of a second, and every seed of an arm asks.
    """
    return _composed(tuple(overrides), config_dir)


@functools.cache
def _composed(overrides: tuple[str, ...], config_dir: Path | None) -> DictConfig:
    config = compose(*overrides, config_dir=config_dir)
    OmegaConf.set_readonly(config, True)
    return config


def same_recipe(saved: Path, now: DictConfig) -> bool:
    """Return whether a saved configuration is today's, apart from where it was run."""
    then = OmegaConf.load(saved)
    assert isinstance(then, DictConfig)
    return agrees(then, now, default=composed(()))


def digest(directory: Path) -> Json:
    """Return what is worth keeping of a run directory as one small record: metrics by iteration and all scores."""
    there = RunDirectory(directory)
    metrics = read_metrics(there.metrics)
    iterations: dict[int, dict[str, float]] = {}
    for row in metrics:
        entry = iterations.setdefault(int(row["iteration"]), {})
        for role in ("challenger", "solver"):
            if f"{role}/reward" in row:
                entry.setdefault(f"{role}/first_reward", row[f"{role}/reward"])
                entry[f"{role}/reward"] = row[f"{role}/reward"]
                entry[f"{role}/kl"] = row.get(f"{role}/kl", 0.0)
                entry[f"{role}/length"] = row[f"{role}/completions/mean_length"]
        entry.update({name: value for name, value in row.items() if name.startswith(KEPT_METRICS)})
        for name in row:
            if name.startswith(ADDED_UP):
                entry[name] = entry.get(name, 0.0) + row[name]
    numbers = range(max(iterations) + 1)
    scores = [json.loads(there.scores(number).read_text(encoding="utf-8")) for number in numbers]
    # "rounds" is what the kept results call it
    return {"rounds": [iterations.get(number, {}) for number in numbers], "scores": scores}


def load(folder: Path, seed: int) -> KeptRun:
    """Return a run from a folder of the store."""
    kept = RunDirectory(folder)
    record = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    matrix = json.loads(kept.analyses.read_text(encoding="utf-8"))["matrix"] if kept.analyses.exists() else []
    return KeptRun(
        seed=seed,
        scores=tuple(map(Scores.from_json, record["scores"])),
        iterations=tuple(record["rounds"]),
        manifest=json.loads(kept.manifest.read_text(encoding="utf-8")),
        matrix=tuple(map(tuple, matrix)),
    )


def keep(directory: Path, folder: Path) -> None:
    """Copy the small files of a finished run into the store; what is there already and the same stays as it is."""
    folder.mkdir(parents=True, exist_ok=True)
    there, kept = RunDirectory(directory), RunDirectory(folder)
    result = json.dumps(digest(directory)).encode()
    if not (folder / RESULT).exists() or (folder / RESULT).read_bytes() != result:
        shutil.copyfile(there.config, kept.config)
        shutil.copyfile(there.manifest, kept.manifest)
        write_atomically(folder / RESULT, result)
    if there.analyses.exists():
        shutil.copyfile(there.analyses, kept.analyses)


def execute(arm: Arm, seed: int, store: Store) -> None:
    """Run an arm in a process of its own, or go on with it, and keep its figures.

    Raises RuntimeError with the end of its error output when it fails; the run directory stays, and the next call goes
    on from its last complete stage.
    """
    directory = store.directory(arm, seed)
    if arm.after:
        # the store does not hold its weights: where its directory is gone, it is run once more
        finish(arm.after, seed, store)
    if not finish(arm, seed, store):
        raise RuntimeError(f"{directory} is not finished; see its metrics.jsonl and start again")
    if arm.analysed and not RunDirectory(directory).analyses.exists():
        command("experiments.analyse", *_own(store), str(directory))
    keep(directory, store.folder(arm, seed))


def finish(arm: Arm, seed: int, store: Store) -> bool:
    """Bring a run to its end: a finished one is left alone, the directory of another recipe is removed first."""
    directory = store.directory(arm, seed)
    saved = RunDirectory(directory).config
    if directory.exists():
        with locked(directory, wait=True):
            pass  # a run of an earlier command that was killed may still be at it; what it finishes is not done twice
        if not (saved.exists() and same_recipe(saved, store.config(arm, seed))):
            shutil.rmtree(directory)
    if not finished(directory):
        new = [*store.overrides(arm, seed), f"directory={directory}"]
        arguments = [f"resume={directory}"] if saved.exists() else new
        command("experiments.run", *_own(store), *arguments, log=log_of(directory))
    return finished(directory)


def _own(store: Store) -> list[str]:
    return [f"--config-dir={store.config_dir.resolve()}"] if store.config_dir else []


def log_of(directory: Path) -> Path:
    """Return where the output of a run in a process of its own goes, its progress included: beside its directory."""
    return directory.parent / f"{directory.name}.log"


def command(module: str, *arguments: str, log: Path | None = None) -> None:
    """Carry out a command in a process of its own; RuntimeError with the end of its output when it fails.

    log: a file that its output is added to as it comes; without one the end of its error output is all that is seen.
    """
    command = [sys.executable, "-m", module, *arguments]
    code, output = carry_out(command, log=log)
    if code:
        raise RuntimeError(f"{' '.join(command)} ended with code {code}:\n{output[-2000:]}")


class MissingRuns(RuntimeError):
    """Some runs are not kept and nobody said that they may be started. Its text names each of them, a line each."""

    def __init__(self, reasons: Sequence[str], *, start: str = "--run") -> None:
        shown = "".join(f"\n  {reason}" for reason in reasons)
        counted = "1 run is missing" if len(reasons) == 1 else f"{len(reasons)} runs are missing"
        super().__init__(f"{counted}; {start} starts what is missing:{shown}")


def missing(arms: Sequence[Arm], seeds: Sequence[int], *, store: Store) -> Iterator[tuple[Arm, int, str]]:
    """Yield the runs that are not in the store, each with the reason."""
    for arm in arms:
        for seed in seeds:
            if reason := store.lacks(arm, seed):
                yield arm, seed, reason


def require(arms: Sequence[Arm], seeds: Sequence[int], *, store: Store) -> None:
    """Raise MissingRuns unless every run is in the store. Nothing is started."""
    if lost := list(missing(arms, seeds, store=store)):
        raise MissingRuns([f"{arm.folder}, seed {seed}: {reason}" for arm, seed, reason in lost])


def complete(arms: Sequence[Arm], seeds: Sequence[int], *, store: Store, jobs: int, console: Console) -> None:
    """Run what is not in the store, `jobs` at a time."""
    todo = [(arm, seed) for arm, seed, _ in missing(arms, seeds, store=store)]
    if todo:
        console.print(
            f"{len(todo)} runs are missing or of another recipe; running them, {jobs} at a time; what each says is in "
            f"{store.work}, ARM/seedN.log",
            style="bold",
        )
    with progress("runs", total=len(todo), console=console) as meter:
        for later in (False, True):  # an arm that starts from another one's Solver comes after it
            wave = [(arm, seed) for arm, seed in todo if bool(arm.after) == later]
            with ThreadPoolExecutor(jobs) as pool:
                started = [(arm, seed, pool.submit(execute, arm, seed, store)) for arm, seed in wave]
                try:
                    for arm, seed, future in started:
                        future.result()
                        console.print(f"{arm.folder}, seed {seed}: done", highlight=False)
                        meter.advance()
                except KeyboardInterrupt:
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise


class Measured(Protocol):
    """A run with scores and metrics of the base (0) and each iteration."""

    @property
    def scores(self) -> tuple[Scores, ...]: ...

    @property
    def iterations(self) -> Sequence[Mapping[str, float]]: ...


def average_table(runs: Sequence[Measured]) -> list[dict[str, dict[str, float]]]:
    """Return the scores of base and iterations averaged over seeds: [iteration][row][column]."""
    tables = [[scores.table() for scores in run.scores] for run in runs]
    return [
        {
            row: {column: fmean(table[i][row][column] for table in tables) for column in columns}
            for row, columns in tables[0][i].items()
        }
        for i in range(len(tables[0]))
    ]


def average_iterations(runs: Sequence[Measured]) -> list[dict[str, float]]:
    """Return the metrics of each iteration averaged over seeds, where every seed has them."""
    every = [[run.iterations[i] for run in runs] for i in range(len(runs[0].iterations))]
    return [
        {name: fmean(one[name] for one in same) for name in same[0] if all(name in one for one in same)}
        for same in every
    ]
