"""Run R-Zero.

    python -m experiments.run                       # the micro experiment
    python -m experiments.run --help                # groups, configuration, examples
    python -m experiments.run resume=<run directory>
    python -m experiments.run sweeps=band           # a multirun; the same command goes on where it was stopped
    python -m experiments.run --config-dir mine challenger_reward@challenger.reward=peak    # your own options

Exit codes: 0 finished; 1 stopped by the user (resumable), or some jobs of a multirun failed; 2 a wrong value, path or
place; 3 nothing was kept or learned, or training collapsed (collapse=stop); 143 stopped by SIGTERM (resumable).
"""

from __future__ import annotations

import contextlib
import functools
import shlex
import shutil
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from experiments import PROJECT, nodes, rundir
from experiments.command_line import (
    DONE,
    EXPECTED,
    FRUITLESS,
    STOPPED,
    TERMINATED,
    WRONG,
    check,
    complain,
    exit_code,
    expand_policy,
    hydra_raises,
    say,
    told,
    without_config_dir,
)
from experiments.compose import importable, own_folder
from experiments.overrides import refuse_old
from experiments.paths import spelled
from experiments.processes import Terminated, terminable
from experiments.recipe import modern
from experiments.resolvers import register_resolvers
from experiments.sweeping import jobs
from experiments.sweeping.places import expand_sweep, is_sweep, job_directory
from experiments.terminal import quiet_libraries, waiting
from rzero.durable import write_atomically
from rzero.escaping import checked_name
from rzero.processes.started import Started
from rzero.runs.directory import RunDirectory
from rzero.runs.ledger import Ledger

if TYPE_CHECKING:
    from rzero.processes.ranks import Ranks
    from rzero.selfplay import SelfPlay


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a run ended. skipped: a job of a multirun that an earlier attempt had finished."""

    code: int = DONE
    message: str = ""
    directory: Path | None = None
    skipped: bool = False


MAY_CHANGE = ("iterations", "trainer", "threads", "log_seconds", "checkpoint_every", "collapse")
"""Keys that a resumed run may be given anew: how far, and on what, but nothing that its past depends on."""


def resumed(cfg: DictConfig, overrides: list[str], *, restore: bool = True) -> tuple[DictConfig, Path]:
    """Return the configuration a run was started with, apart from `MAY_CHANGE`, and its directory.

    restore: whether a damaged file of it is written again.
    """
    directory = Path(cfg.resume)
    saved = RunDirectory(directory).config
    original = Ledger.open(RunDirectory(directory).state).config
    if not saved.is_file() and not original:
        raise FileNotFoundError(f"resume={directory}: there is no run (no {saved}); give the directory of a run")
    keys = {text: text.partition("=")[0].partition(".")[0] for text in overrides}
    other = [text for text, key in keys.items() if key != "resume" and key not in MAY_CHANGE]
    if other:
        raise ValueError(
            f"a resumed run keeps its past; remove {', '.join(other)} (only {', '.join(MAY_CHANGE)} may change)"
        )
    if restore and original and (not saved.is_file() or saved.read_bytes() != original.encode()):
        say(f"warning: {saved} is not what the run was started with; restored", console=Console(stderr=True))
        write_atomically(saved, original.encode())
    text = original or saved.read_text(encoding="utf-8", errors="replace")
    config = OmegaConf.create(text)
    if not isinstance(config, DictConfig):
        raise ValueError(f"{saved} is no configuration of a run; restore it or start a new run")
    config = modern(config)
    for key in set(MAY_CHANGE) & set(keys.values()):
        config[key] = cfg[key]
    return config, directory


def settled(cfg: DictConfig, among: Started | None) -> tuple[DictConfig, Exception | None]:
    """Return the configuration of this run, new or resumed, and what is wrong with it: the others are to hear that.

    Raises ValueError at once where the processes that were started are not those of `trainer`.
    """
    try:
        if cfg.resume:  # only the first of several processes writes
            cfg = resumed(cfg, list(HydraConfig.get().overrides.task), restore=among is None or among.first)[0]
        else:
            check(cfg)
            cfg.name = checked_name(str(cfg.name))  # written down as it is now, whatever it was made of
    except EXPECTED as error:
        return cfg, error
    nodes.check(cfg, among)
    return cfg, None


def place(cfg: DictConfig, resume: str | None) -> Path:
    """Return the directory of this run: the one that it goes on in, or a fresh one with its configuration in it."""
    job = HydraConfig.get()
    if resume:
        return Path(resume)
    if job.mode == RunMode.MULTIRUN:
        if cfg.directory:
            raise ValueError(
                f"directory={cfg.directory} would be that of every job; give a multirun hydra.sweep.dir=DIR"
            )
        directory = job_directory(cfg, job)
        directory.mkdir(parents=True, exist_ok=True)
    else:
        directory = rundir.create(Path(cfg.directory)) if cfg.directory else rundir.create_dated(cfg.name, cfg.seed)
    if not RunDirectory(directory).state.exists():  # else a job of a sweep that goes on
        begin(directory, cfg)
    return directory


def begin(directory: Path, cfg: DictConfig) -> None:
    """Write down what a run is before anything else; a directory that does not take it is removed again."""
    text = OmegaConf.to_yaml(cfg)
    try:
        write_atomically(RunDirectory(directory).config, text.encode())
        Ledger(path=RunDirectory(directory).state).begin(text)
    except OSError:
        shutil.rmtree(directory, ignore_errors=True)  # so that the same command can be given again
        raise


def begun(directory: Path) -> bool:
    """Return whether anything was drawn or trained there that a resumption would not have to do again."""
    there = RunDirectory(directory)
    try:
        ledger = Ledger.open(there.state)
    except ValueError:  # of an earlier attempt, and damaged: not ours to remove
        return True
    return bool(ledger.stages or ledger.checkpoint) or any(there.evaluations.glob("*"))


def resuming(directory: Path, own: Path | None) -> str:
    """Return the command that goes on with a run, as a shell reads it. own: the folder of --config-dir."""
    options = ["--config-dir", str(own)] if own else []
    return shlex.join(["python", "-m", "experiments.run", *options, f"resume={directory}"])


def execute(cfg: DictConfig) -> Ending:
    """Carry out one run from configuration to report; print one message for what went wrong."""
    directory: Path | None = None
    own: Path | None = None
    among: Started | None = None
    sweep, resume = HydraConfig.get().mode == RunMode.MULTIRUN, cfg.resume

    def ended(error: object, code: int) -> Ending:
        if among and among.local_rank > 0:  # the first process of each node says it
            return Ending(code=code, message=told(error), directory=directory)
        complain(error)
        if directory is None or code == FRUITLESS:  # going on would end in the same way
            return Ending(code=code, message=told(error), directory=directory)
        if code == WRONG and not resume and not begun(directory):
            if among is None or among.first:
                rundir.discard(directory)  # the same command with a right value has its place again
            return Ending(code=code, message=told(error))
        if rundir.is_run(directory):
            say(f"nothing is lost; go on with: {resuming(directory, own)}", console=Console(stderr=True))
        return Ending(code=code, message=told(error), directory=directory)

    try:
        own = own_folder()
        among = nodes.started(several_runs=sweep)
        cfg, fault = settled(cfg, among)
        with terminable(), nodes.joined(among, cfg, fault=fault) as ranks:
            directory = nodes.shared_directory(ranks, functools.partial(place, cfg, resume), new=not resume)
            if ranks and not ranks.first:
                take_part(cfg, directory, ranks)
                return Ending(directory=directory)
            # a job of a killed sweep may still be running, on another machine for instance: its work is not done twice
            with rundir.locked(directory, wait=sweep):
                if sweep and rundir.finished(directory):
                    return Ending(directory=directory, skipped=True)
                from rzero.collapse import Collapsed
                from rzero.runs.questions import NothingKept
                from rzero.runs.training import NothingLearned

                try:
                    run_locked(cfg, directory, ranks)
                except (NothingKept, NothingLearned, Collapsed) as outcome:
                    report(directory)
                    return ended(outcome, FRUITLESS)
    except Terminated:
        return ended("stopped by SIGTERM", TERMINATED)
    except KeyboardInterrupt:
        return ended("stopped by the user", STOPPED)
    except Exception as error:  # whatever it is, the user gets one line
        return ended(error, WRONG)
    return Ending(directory=directory)


def built(cfg: DictConfig, directory: Path, ranks: Ranks | None) -> SelfPlay:
    """Return the run as it is composed; libraries and benchmarks take a while to load."""
    with waiting("loading libraries and benchmarks"):
        from experiments import composition
        from experiments.at_hand import require_memory
        from rzero.processes.cpu import set_up_cpu
        from rzero.processes.ranks import joined

        set_up_cpu(threads=cfg.threads, kernels=cfg.cpu_kernels)
        quiet_libraries()
        composition.require_weights(cfg.policy)
        require_memory(cfg)
        return composition.build(cfg, directory, join=joined(ranks) if ranks else None)


def run_locked(cfg: DictConfig, directory: Path, ranks: Ranks | None) -> None:
    """Do the work itself, in a directory that is ours; ranks: the group of this process where others are there."""
    from experiments import composition
    from experiments.at_hand import estimate
    from experiments.provenance import write_manifest

    say(f"run directory: {directory}")
    selfplay = built(cfg, directory, ranks)
    questions = {name: len(task.documents) for name, task in getattr(selfplay.suite, "tasks", {}).items()}
    if guess := estimate(cfg, questions=questions):
        say(guess)
    if blind := composition.unseen(selfplay):
        say(blind)
    if note := write_manifest(directory, cfg, finished=False, repaired=selfplay.stages.ledger.notes):
        say(f"warning: {note}")
    try:
        if ranks:
            ranks.gather(None)  # what is done is settled; the others may read it
        selfplay.run()
    finally:
        selfplay.close()
    write_manifest(directory, cfg, finished=True, stages=selfplay.stages.results)
    report(directory)


def take_part(cfg: DictConfig, directory: Path, ranks: Ranks) -> None:
    """Do what another process than the first does: the same, silently and without writing."""
    from experiments import composition
    from rzero.collapse import Collapsed
    from rzero.processes.ranks import joined
    from rzero.runs.questions import NothingKept
    from rzero.runs.training import NothingLearned

    quiet_libraries()
    ranks.gather(None)
    selfplay = composition.build(cfg, directory, join=joined(ranks), first=False)
    with suppress(NothingKept, NothingLearned, Collapsed):  # the first process says it, writes the report and the code
        selfplay.run()


def report(directory: Path) -> None:
    from experiments.report import write_report

    say(f"report: {write_report([directory], output=directory)}")


def execute_job(cfg: DictConfig) -> Ending:
    """Carry out a job of a multirun; what it prints goes to its own file, because several may be running at once.

    Raises KeyboardInterrupt when the user stopped it: the jobs behind it are not to start.
    """
    job = HydraConfig.get()
    log = jobs.log_path(Path(job.runtime.output_dir), job.job.num)
    with open(log, "a", encoding="utf-8") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        ending = execute(cfg)
    if ending.code == STOPPED:
        raise KeyboardInterrupt
    return ending


@hydra.main(version_base="1.3", config_path=str(PROJECT / "conf"), config_name="config")
def main(cfg: DictConfig) -> Ending:
    register_resolvers()
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        return execute_job(cfg)
    ending = execute(cfg)
    if ending.code:
        sys.exit(ending.code)
    return ending


def command() -> None:
    """`python -m experiments.run`, with `policy=DIR` understood and a multirun where it was the last time."""
    register_resolvers()
    own, given = without_config_dir(sys.argv[1:])
    several = is_sweep(given)

    def work() -> int:
        refuse_old(given)
        chosen = spelled(expand_policy(given, config_dir=own, several=several), several=several)
        sys.argv[1:] = [*([f"--config-dir={importable(own)}"] if own else []), *expand_sweep(chosen)]
        with hydra_raises():
            main()
        return DONE

    if code := exit_code(work, stopped="nothing is lost, the same command goes on"):
        sys.exit(code)


if __name__ == "__main__":
    command()
