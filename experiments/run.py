"""Run R-Zero.

    python -m experiments.run                       # the micro experiment
    python -m experiments.run --help                # groups, configuration, examples
    python -m experiments.run resume=<run directory>
    python -m experiments.run sweeps=band           # a multirun; the same command goes on where it was stopped

Exit codes: 0 finished; 1 stopped by the user (resumable), or some jobs of a multirun failed; 2 a wrong value, path or
place; 3 nothing was kept or learned, or training collapsed (collapse=stop); 143 stopped by SIGTERM (resumable).
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from experiments import PROJECT, rundir
from experiments.resolvers import register_resolvers
from experiments.sweeping import jobs
from experiments.sweeping.places import expand_sweep, job_directory
from rzero.durable import write_atomically
from rzero.escaping import checked_name
from rzero.runs.ledger import Ledger

STOPPED, WRONG, FRUITLESS, TERMINATED = 1, 2, 3, 143


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a run ended. skipped: a job of a multirun that an earlier attempt had finished."""

    code: int = 0
    message: str = ""
    directory: Path | None = None
    skipped: bool = False


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived: what a scheduler sends before it takes a machine away."""


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM raises `Terminated` while the context lasts: everything is closed in order, then the process ends.

    Signals belong to the main thread; where another one runs us, they stay as they are.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


WHOLE_NUMBERS = {"seed": 0, "iterations": 1, "threads": 1, "response_tokens": 1, "checkpoint_every": 0}
"""Keys that belong to the run and to no constructor, and their smallest value."""


def check(cfg: DictConfig) -> None:
    """Raise ValueError naming the key, the value and what it may be. Everything else is checked by its constructor."""
    for key, smallest in WHOLE_NUMBERS.items():
        if isinstance(cfg[key], bool) or not isinstance(cfg[key], int) or cfg[key] < smallest:
            raise ValueError(f"{key} must be a whole number, at least {smallest}, got {cfg[key]!r}")


def expand_policy(arguments: list[str]) -> list[str]:
    """`policy=DIR` for any directory or hub id that is no option of the group, spelled out for Hydra."""
    options = {path.stem for path in (PROJECT / "conf" / "policy").glob("*.yaml")}
    expanded = []
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key == "policy" and value and value not in options and "," not in value:
            expanded += ["policy=hf", f"policy.path_or_id='{value}'"]
        else:
            expanded.append(argument)
    return expanded


MAY_CHANGE = ("iterations", "trainer", "threads", "log_seconds", "checkpoint_every", "collapse")
"""What a resumed run may be given anew: how far, and on what, but nothing that its past depends on."""


def resumed(cfg: DictConfig, overrides: list[str]) -> tuple[DictConfig, Path]:
    """The configuration a run was started with, apart from `MAY_CHANGE`, and its directory."""
    directory = Path(cfg.resume)
    saved = directory / "config.yaml"
    original = Ledger.open(directory / "state.json").config
    if not saved.is_file() and not original:
        raise FileNotFoundError(f"resume={directory}: there is no run (no {saved}); give the directory of a run")
    keys = {text: text.partition("=")[0].partition(".")[0] for text in overrides}
    other = [text for text, key in keys.items() if key != "resume" and key not in MAY_CHANGE]
    if other:
        raise ValueError(
            f"a resumed run keeps its past; remove {', '.join(other)} (only {', '.join(MAY_CHANGE)} may change)"
        )
    if original and (not saved.is_file() or saved.read_bytes() != original.encode()):
        Console(stderr=True).print(f"warning: {saved} is not what the run was started with; restored", markup=False)
        write_atomically(saved, original.encode())
    config = OmegaConf.create(saved.read_text(encoding="utf-8", errors="replace"))
    if not isinstance(config, DictConfig):
        raise ValueError(f"{saved} is no configuration of a run; restore it or start a new run")
    for key in set(MAY_CHANGE) & set(keys.values()):
        config[key] = cfg[key]
    return config, directory


def prepare(cfg: DictConfig) -> tuple[DictConfig, Path]:
    """The configuration and the directory of this run, new or resumed."""
    job = HydraConfig.get()
    if cfg.resume:
        return resumed(cfg, list(job.overrides.task))
    check(cfg)
    checked_name(str(cfg.name))
    if job.mode == RunMode.MULTIRUN:
        if cfg.directory:
            raise ValueError(
                f"directory={cfg.directory} would be that of every job; give a multirun hydra.sweep.dir=DIR"
            )
        directory = job_directory(cfg, job)
        directory.mkdir(parents=True, exist_ok=True)
    else:
        directory = rundir.create(Path(cfg.directory) if cfg.directory else rundir.default_path(cfg.name, cfg.seed))
    if not (directory / "state.json").exists():  # else a job of a sweep that goes on
        begin(directory, cfg)
    return cfg, directory


def begin(directory: Path, cfg: DictConfig) -> None:
    """Write down what a run is before anything else; a directory that does not take it is removed again."""
    text = OmegaConf.to_yaml(cfg)
    try:
        write_atomically(directory / "config.yaml", text.encode())
        Ledger(path=directory / "state.json").begin(text)
    except OSError:
        shutil.rmtree(directory, ignore_errors=True)  # so that the same command can be given again
        raise


def execute(cfg: DictConfig) -> Ending:
    """One run from configuration to report; prints one message for what went wrong."""
    console, complaints = Console(), Console(stderr=True)
    directory: Path | None = None

    def complain(text: object, code: int) -> Ending:
        complaints.print(f"error: {text}", style="bold red", highlight=False, markup=False, soft_wrap=True)
        if directory is not None and (directory / "metrics.jsonl").exists():
            hint = f"nothing is lost; go on with: python -m experiments.run resume={directory}"
            complaints.print(hint, highlight=False, markup=False, soft_wrap=True)
        return Ending(code=code, message=str(text), directory=directory)

    try:
        cfg, directory = prepare(cfg)
        sweep = HydraConfig.get().mode == RunMode.MULTIRUN
        # a job of a killed sweep may still be running, on another machine for instance: its work is not done twice
        with terminable(), rundir.locked(directory, wait=sweep):
            if sweep and rundir.finished(directory):
                return Ending(directory=directory, skipped=True)
            from rzero.collapse import Collapsed
            from rzero.selfplay import NothingKept, NothingLearned

            try:
                run_locked(cfg, directory, console)
            except (NothingKept, NothingLearned, Collapsed) as outcome:
                report(directory, console)
                return complain(outcome, FRUITLESS)
    except Terminated:
        return complain("stopped by SIGTERM", TERMINATED)
    except KeyboardInterrupt:
        return complain("stopped by the user", STOPPED)
    except (ValueError, OSError, RuntimeError, HydraException, OmegaConfBaseException) as error:
        cause = error.__cause__ if isinstance(error, HydraException) and error.__cause__ else error
        return complain(cause, WRONG)
    return Ending(directory=directory)


def run_locked(cfg: DictConfig, directory: Path, console: Console) -> None:
    """The work itself, in a directory that is ours."""
    from experiments import composition
    from experiments.provenance import write_manifest
    from rzero.processes.cpu import set_up_cpu

    set_up_cpu(threads=cfg.threads, kernels=cfg.cpu_kernels)
    quiet_libraries()
    console.print(f"run directory: {directory}", highlight=False, markup=False, soft_wrap=True)
    selfplay = composition.build(cfg, directory)
    if note := write_manifest(directory, cfg, finished=False, repaired=selfplay.ledger.notes):
        console.print(f"warning: {note}", highlight=False, markup=False, soft_wrap=True)
    try:
        selfplay.run()
    finally:
        selfplay.tracker.close()
    write_manifest(directory, cfg, finished=True)
    report(directory, console)


def quiet_libraries() -> None:
    """Their start-up lines, tips and weight-loading bars would bury the run's own progress."""
    from transformers.utils import logging as transformers_logging

    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    transformers_logging.disable_progress_bar()


def report(directory: Path, console: Console) -> None:
    from experiments.report import write_report

    path = write_report([directory], output=directory)
    console.print(f"report: {path}", highlight=False, markup=False, soft_wrap=True)


def execute_job(cfg: DictConfig) -> Ending:
    """A job of a multirun: what it prints goes to its own file, because several may be running at once.

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
    sys.argv[1:] = expand_sweep(expand_policy(sys.argv[1:]))
    try:
        main()
    except KeyboardInterrupt:
        print("error: stopped by the user; nothing is lost, the same command goes on", file=sys.stderr)
        sys.exit(STOPPED)


if __name__ == "__main__":
    command()
