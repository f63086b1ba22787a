"""One attempt at a run in a process group of its own, forked from a process that has imported everything already."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, ParamSpec, TypeVar

from omegaconf import DictConfig, OmegaConf

from experiments.torture.plan import AtBoundary, AtCall, AtInstant, Kill
from rzero.durable import fingerprints
from rzero.runs.directory import RunDirectory
from rzero.runs.ledger import Ledger
from rzero.tracking import is_timing, read_metrics
from rzero.types import Json

P = ParamSpec("P")
R = TypeVar("R")

_POLL_S = 0.005


def attempt(cfg: DictConfig, directory: Path, *, kill: Kill | None = None, log: Path) -> bool:
    """Start or resume the run in `directory`; True when it came to its end, False when it was killed.

    Raises RuntimeError with the end of `log` when it ended in any other way.
    """
    child = os.fork()
    if child == 0:
        _run(cfg, directory, kill, log)
    deadline = time.monotonic() + kill.seconds if isinstance(kill, AtInstant) else None
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            break
        if deadline is not None and time.monotonic() >= deadline:
            _kill_group(child)
            _, status = os.waitpid(child, 0)
            break
        time.sleep(_POLL_S)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return False
    if status:
        raise RuntimeError(f"an attempt ended with status {status}: {log.read_text(errors='replace')[-2000:]}")
    return True


def _kill_group(child: int) -> None:
    try:
        os.killpg(child, signal.SIGKILL)
    except ProcessLookupError:  # it has not come to making its group yet
        os.kill(child, signal.SIGKILL)


def _run(cfg: DictConfig, directory: Path, kill: Kill | None, log: Path) -> NoReturn:
    """Do in the child what `experiments.run` does between locking the directory and writing the report."""
    code = 1
    try:
        os.setpgid(0, 0)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(output, 1)
        os.dup2(output, 2)
        arm(kill)
        run(cfg, directory)
        code = 0
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def run(cfg: DictConfig, directory: Path) -> None:
    """Carry out a run or what is left of it, without its report."""
    from experiments import composition, rundir
    from experiments.provenance import write_manifest
    from experiments.terminal import quiet_libraries
    from rzero.durable import write_atomically
    from rzero.processes.cpu import set_up_cpu

    set_up_cpu(threads=cfg.threads, kernels=cfg.cpu_kernels)
    quiet_libraries()
    if not directory.exists():
        rundir.create(directory)
        write_atomically(RunDirectory(directory).config, OmegaConf.to_yaml(cfg).encode())
    with rundir.locked(directory):
        selfplay = composition.build(cfg, directory)
        write_manifest(directory, cfg, finished=False)
        try:
            selfplay.run()
        finally:
            selfplay.close()
        write_manifest(directory, cfg, finished=True)


def arm(kill: Kill | None) -> None:
    """Make this process kill its group at the given place."""
    if isinstance(kill, AtBoundary):
        _arm_commit("complete" if kill.step is None else "pause", kill)
    elif isinstance(kill, AtCall):
        _arm_calls(kill.number)


def _arm_commit(method: str, kill: AtBoundary) -> None:
    commit: Callable[..., None] = getattr(Ledger, method)

    def watched(ledger: Ledger, stage: str, result: Json, **rest: object) -> None:
        hit = stage == kill.stage and kill.step in (None, result.get("rollouts"))
        if hit and not kill.after:
            _die()
        commit(ledger, stage, result, **rest)
        if hit:
            _die()

    setattr(Ledger, method, watched)


def _arm_calls(number: int) -> None:
    left = [number]

    def counted(call: Callable[P, R]) -> Callable[P, R]:
        def watched(*arguments: P.args, **named: P.kwargs) -> R:
            left[0] -= 1
            if not left[0]:
                _die()
            return call(*arguments, **named)

        return watched

    for name in ("fsync", "replace"):
        setattr(os, name, counted(getattr(os, name)))


def _die() -> None:
    os.killpg(os.getpgrp(), signal.SIGKILL)


def end_state(directory: Path) -> dict[str, str]:
    """Return all that a run ends with: weights, questions and scores by their sha256, metrics without times."""
    there = RunDirectory(directory)
    folders = [there.bank, *map(there.iteration, there.iterations())]
    rows = read_metrics(there.metrics)
    kept = [{name: value for name, value in row.items() if not is_timing(name)} for row in rows]
    return {**fingerprints(folders, root=directory), "metrics": repr(kept)}


def uncommitted_rows(directory: Path) -> int:
    """Count the rows of metrics that belong to work which will be done again."""
    path = RunDirectory(directory).metrics
    if not path.exists():
        return 0
    return path.read_bytes()[Ledger.open(RunDirectory(directory).state).last.metrics.size :].count(b"\n")
