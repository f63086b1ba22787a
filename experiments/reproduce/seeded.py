"""A study whose arms have seeds of their own, run one by one and kept at once (`experiments.reproduce.compact`).

Its command shows what is kept; with --run it runs what is missing, or goes on with what was stopped. Where data and
weights lie on a machine, and how many threads it has to spare, is no part of a recipe: a run that was begun goes on
with what it was begun with.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

from evaluation.metrics import Scores
from experiments import PROJECT
from experiments.command_line import DONE, UNMET, WRONG, complain, exit_code, say
from experiments.reproduce import compact
from experiments.reproduce.compact import Kept
from experiments.rundir import locked
from experiments.runs import STORE, Arm, Store, command, finish, log_of, said_minutes, said_peak, same_recipe
from experiments.terminal import print_table
from rzero.runs.directory import RunDirectory
from rzero.types import Json

MACHINE = ("benchmarks.source.data_dir", "policy.path_or_id", "threads", "engine.threads")
"""Keys that say where data and weights lie, and how many threads a run has."""


def nothing_more(directory: Path, config: DictConfig) -> Sequence[Json]:
    """Measures nothing after a run has ended."""
    return ()


def nothing_beside(study: SeededStudy) -> None:
    """Measures nothing but the runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeededStudy:
    """Arms by name, and the seeds of each. `name` is its folder in the store, and of its runs' directories.

    score: the figure that counts, in percent. after: what is measured of a finished run before it is kept
    (`Kept.transfer`), given its directory and configuration. beside: what --run measures once for all runs, behind
    them; RuntimeError where it fails. machine: overrides with keys of `MACHINE`.
    """

    name: str
    arms: Mapping[str, Arm]
    seeds: Mapping[str, tuple[int, ...]]
    score: Callable[[Scores], float]
    after: Callable[[Path, DictConfig], Sequence[Json]] = nothing_more
    beside: Callable[[SeededStudy], None] = nothing_beside
    machine: tuple[str, ...] = ()
    root: Path = STORE
    work: Path = PROJECT / "outputs"

    def runs(self, arms: Sequence[str] = (), seeds: Sequence[int] = ()) -> Iterator[tuple[str, int]]:
        """Yield arm and seed of every run, seed by seed; of those named only, where some are."""
        chosen = [name for name in self.arms if not arms or name in arms]
        every = sorted({seed for name in chosen for seed in self.seeds[name]})
        for seed in seeds if seeds else every:
            yield from ((name, seed) for name in chosen if seed in self.seeds[name])

    def store(self, *, machine: tuple[str, ...] = ()) -> Store:
        return Store(root=self.root / self.name, work=self.work / self.name, extra=machine)

    def folder(self, name: str, seed: int) -> Path:
        return self.store().folder(self.arms[name], seed)

    def config(self, name: str, seed: int) -> DictConfig:
        """Return today's recipe of a run."""
        return self.store().config(self.arms[name], seed)

    def lacks(self, name: str, seed: int) -> str:
        """Return why a run does not count as kept; empty when it does."""
        return compact.lacks(self.folder(name, seed), self.config(name, seed))

    def kept(self, name: str, seeds: Sequence[int] = ()) -> list[Kept]:
        """Return the runs of an arm that are kept, by seed."""
        wanted = [seed for seed in self.seeds[name] if not seeds or seed in seeds]
        return [compact.load(self.folder(name, seed), seed) for seed in wanted if not self.lacks(name, seed)]

    def execute(self, name: str, seed: int) -> Path:
        """Run an arm in a process of its own, or go on with it, and keep it; return the folder.

        Raises RuntimeError with the end of its error output when it fails; the same call goes on from there.
        """
        arm, recipe = self.arms[name], self.config(name, seed)
        directory = self.store().directory(arm, seed)
        store = self.store(machine=self._machine_of(directory, arm, seed))
        say(f"{name}, seed {seed}: running in {directory}; its progress: tail -f {log_of(directory)}")
        if not finish(arm, seed, store):
            raise RuntimeError(f"{directory} is not finished; see its metrics.jsonl and start again")
        found = self.after(directory, store.config(arm, seed))
        compact.keep(directory, self.folder(name, seed), config=recipe, transfer=found)
        return self.folder(name, seed)

    def _machine_of(self, directory: Path, arm: Arm, seed: int) -> tuple[str, ...]:
        """What a run was begun with where it goes on, what this machine was said to have where it begins."""
        saved = RunDirectory(directory).config
        if saved.exists():
            begun = begun_with(saved, self.store().config(arm, seed))
            if same_recipe(saved, self.store(machine=begun).config(arm, seed)):
                return begun
        return self.machine

    def keep_opinions(self) -> None:
        """Copy second opinions on runs that are kept already."""
        for name, seed in self.runs():
            if not self.lacks(name, seed):
                compact.keep_opinion(self.store().directory(self.arms[name], seed), self.folder(name, seed))


def ends(directory: Path, config: DictConfig, place: Path, *overrides: str) -> list[Json]:
    """Evaluate the base and the last Solver of a finished run; return scores and truncated shares of both.

    overrides: of `experiments.evaluate`. What was asked into `place` before is not asked again, so that the base is
    asked once for all runs; runs that end at the same time take turns.
    """
    policies = [str(config.policy.path_or_id), str(last_solver(directory, config))]
    place.parent.mkdir(parents=True, exist_ok=True)
    with locked(place.parent, wait=True):
        command("experiments.evaluate", *overrides, f"policy={','.join(policies)}", f"directory={place}")
    written = sorted((place / "scores").glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
    entries = [json.loads(path.read_text(encoding="utf-8")) for path in written]
    scores = {entry["policy"]: entry["scores"] for entry in entries}  # the newest, where the protocol has changed
    return [{key: value for key, value in scores[policy].items() if key != "table"} for policy in policies]


def last_solver(directory: Path, config: DictConfig) -> Path:
    """Return where the weights of a run's last trained Solver are; those of the base where none was trained."""
    there = RunDirectory(directory)
    trained = [number for number in there.iterations() if there.weights("solver", number).is_dir()]
    return there.weights("solver", max(trained)) if trained else Path(str(config.policy.path_or_id))


def begun_with(saved: Path, recipe: DictConfig) -> tuple[str, ...]:
    """Return the overrides with keys of `MACHINE` that tell a saved configuration from its recipe."""
    then, now = OmegaConf.load(saved), OmegaConf.to_container(recipe, resolve=False)
    plain = OmegaConf.to_container(then, resolve=False)
    found = ((key, _at(plain, key)) for key in MACHINE)
    return tuple(f"{key}={value}" for key, value in found if value is not None and value != _at(now, key))


def _at(node: object, key: str) -> object:
    for part in key.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    return node


def complete(study: SeededStudy, runs: Sequence[tuple[str, int]]) -> bool:
    """Run what is missing, one after the other; return whether every run came to its end. A failure is named."""
    whole = True
    for name, seed in runs:
        if not study.lacks(name, seed):
            continue
        try:
            say(f"{name}, seed {seed}: kept in {study.execute(name, seed)}")
        except RuntimeError as error:
            whole = False
            complain(f"{name}, seed {seed}: {error}")
    return whole


def show(study: SeededStudy, runs: Sequence[tuple[str, int]], console: Console) -> None:
    """Print a line for each run that is kept."""
    found = [(name, run) for name, seed in runs for run in study.kept(name, [seed])]
    last = max((len(run.scores) for _, run in found), default=1)
    table = Table(title=f"{study.name}: percent, base and iterations")
    for column in ("arm", "seed", "base", *map(str, range(1, last)), "gain", "minutes", "GiB"):
        table.add_column(column, justify="left" if column == "arm" else "right")
    for name, run in found:
        values = [study.score(scores) for scores in run.scores]
        shown = [f"{value:.1f}" for value in values] + [""] * (last - len(values))
        end = f"{values[-1] - values[0]:+.1f}", said_minutes(run.manifest), said_peak(run.manifest)
        table.add_row(name, str(run.seed), *shown, *end)
    print_table(console, table)


def add_arguments(parser: argparse.ArgumentParser, study: SeededStudy) -> None:
    """Add what every such study takes."""
    parser.add_argument("--arms", nargs="+", choices=list(study.arms), help="some of the arms (all)")
    parser.add_argument("--seeds", type=int, nargs="+", help="some of the seeds (all)")
    parser.add_argument("--run", action="store_true", help="run what is missing, and go on with what was stopped")


def carry_out(study: SeededStudy, options: argparse.Namespace) -> int:
    """Return the exit code of a study's command."""

    def work() -> int:
        known = {seed for seeds in study.seeds.values() for seed in seeds}
        if unknown := [str(seed) for seed in options.seeds or () if seed not in known]:
            raise ValueError(f"--seeds: {study.name} has no seed {', '.join(unknown)}, only {sorted(known)}")
        runs = list(study.runs(options.arms or (), options.seeds or ()))
        whole = complete(study, runs) if options.run else True
        if options.run:
            study.beside(study)
        study.keep_opinions()
        show(study, runs, Console())
        if not whole:
            return WRONG
        return UNMET if any(study.lacks(name, seed) for name, seed in runs) else DONE

    return exit_code(work, stopped="the same command goes on")


def on_machine(study: SeededStudy, *, data_dir: Path | None, weights: str | None, threads: int | None) -> SeededStudy:
    """Return the study on a machine where data and weights lie elsewhere, or a run has other threads than its recipe.

    Raises NotADirectoryError where `data_dir` is a file, ValueError for less than one thread.
    """
    if data_dir and not data_dir.is_dir():
        raise NotADirectoryError(f"--data-dir {data_dir} is no folder; give the one with the benchmarks' .jsonl files")
    if threads is not None and threads < 1:
        raise ValueError(f"--threads must be at least 1, got {threads}")
    said = [f"benchmarks.source.data_dir={data_dir.resolve()}"] if data_dir else []
    said += [f"policy.path_or_id={weights}"] if weights else []
    said += [f"threads={threads}", f"engine.threads={threads}"] if threads else []
    return replace(study, machine=tuple(said))
