"""A run whose processes torchrun or srun started: they must agree on what they run and where before they begin."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from experiments.provenance import commit
from rzero.durable import write_atomically
from rzero.processes.started import Started

if TYPE_CHECKING:
    from rzero.processes.ranks import Ranks

_SIGN = ".nodes"
"""The file by which the others recognise the directory of rank 0, gone again when all have looked."""


def started(*, several_runs: bool) -> Started | None:
    """Return this process' place among those that a launcher started; None where it started one.

    Raises ValueError for an incomplete set of variables, and for a multirun in several processes.
    """
    found = Started.found(os.environ)
    if found and found.size > 1 and several_runs:
        raise ValueError(
            f"{found.launcher} started {found.size} processes: a multirun is one process, which starts its runs itself"
        )
    return found


def check(cfg: DictConfig, found: Started | None) -> None:
    """Raise ValueError where the processes that were started are not those of `trainer`."""
    devices, nodes = cfg.trainer.devices, cfg.trainer.get("num_nodes", 1)
    for key, value in (("devices", devices), ("num_nodes", nodes)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"trainer.{key} must be a whole number, at least 1, got {value!r}")
    if found:
        found.check(devices=devices, nodes=nodes)
    elif nodes > 1:
        raise ValueError(
            f"trainer.num_nodes={nodes}, but nobody started processes on other nodes: run the same command on each by "
            f"torchrun --nnodes={nodes} --nproc-per-node={devices} -m experiments.run ..., or by srun"
        )


@contextmanager
def joined(found: Started | None, cfg: DictConfig, *, fault: Exception | None) -> Iterator[Ranks | None]:
    """The group of the processes that were started, when all are there and agree on commit and configuration.

    None for one process. fault: why this one cannot take part; it is raised here, and `Lost` with it in the others.
    Raises ValueError naming what differs, TimeoutError naming who did not come.
    """
    if found is None or found.size == 1:
        if fault:
            raise fault
        yield None
        return
    from rzero.processes.cpu import set_up_cpu

    try:
        if not fault:
            set_up_cpu(threads=cfg.threads, kernels=cfg.cpu_kernels)  # before anything is computed
    except (ValueError, RuntimeError) as error:
        fault = error
    with found.join(cuda=on_gpu(cfg), fault=fault) as ranks:
        _agree(ranks, cfg, looks=found.local_rank == 0)
        yield ranks


def on_gpu(cfg: DictConfig) -> bool:
    """Return whether each process trains on a GPU of its own."""
    return bool(cfg.trainer.accelerator in ("gpu", "cuda"))


def _agree(ranks: Ranks, cfg: DictConfig, *, looks: bool) -> None:
    mine = (socket.gethostname(), commit(), OmegaConf.to_container(cfg, resolve=False)) if looks else None
    (host, code, config), *others = [found for found in ranks.gather(mine) if found]
    for other_host, other_code, other_config in others:
        if other_code != code:
            raise ValueError(f"the nodes run different commits: {host} {code or 'none'}, {other_host} {other_code}")
        if other_config != config:
            key, here, there = _difference(config, other_config)
            raise ValueError(
                f"the nodes have different configurations: {key} is {here!r} on {host}, {there!r} on {other_host}"
            )


def _difference(left: object, right: object, key: str = "") -> tuple[str, object, object]:
    """The first key by which two different configurations differ, and its values."""
    if isinstance(left, dict) and isinstance(right, dict):
        for name in {**left, **right}:
            if left.get(name) != right.get(name) or (name in left) != (name in right):
                return _difference(left.get(name), right.get(name), f"{key}.{name}".lstrip("."))
    return key, left, right


def shared_directory(ranks: Ranks | None, make: Callable[[], Path], *, new: bool) -> Path:
    """Return the run's directory on every rank; rank 0 makes it.

    Raises ValueError naming the nodes that do not see it; one that was made anew is removed then.
    """
    if ranks is None:
        return make()
    if not ranks.first:
        directory, sign = ranks.from_first(None)
        seen = (directory / _SIGN).is_file() and (directory / _SIGN).read_text(encoding="utf-8") == sign
        _all_see(directory, ranks.gather(None if seen else socket.gethostname()))
        return directory
    directory, sign = make(), secrets.token_hex()
    write_atomically(directory / _SIGN, sign.encode())
    try:
        ranks.from_first((directory.resolve(), sign))
        _all_see(directory, ranks.gather(None))
    except BaseException:
        if new:
            shutil.rmtree(directory, ignore_errors=True)
        raise
    finally:
        (directory / _SIGN).unlink(missing_ok=True)
    return directory


def _all_see(directory: Path, blind: list[str | None]) -> None:
    if hosts := sorted({host for host in blind if host}):
        raise ValueError(
            f"{directory}: {', '.join(hosts)} sees another directory there than the first node does; a run of several "
            "nodes has to be on storage that they share (directory=...)"
        )
