"""Starting the processes of a run on this machine.

The process that the user started is rank 0 and starts the others (`launch`); they find each other through a file, so
no port is fixed. All processes are on one machine. torch's `elastic_launch` would start rank 0 anew as well; here it
stays the process of the user, with its progress, its Ctrl-C and its exit code.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.multiprocessing.spawn import ProcessContext, ProcessException

from rzero.processes.parent import die_with
from rzero.processes.ranks import Ranks

_REASON_TIMEOUT_S = 30.0  # how long a process that failed is given to say why
_END_TIMEOUT_S = 10.0  # how long all processes together are given to end when they are told to
# How long the others wait while rank 0 draws or judges: hours at the paper's size. One that dies is noticed at once.
_COLLECTIVE_TIMEOUT = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class RankConfig:
    """The place of a process: its rank, how many there are, and the file through which they meet.

    cuda: whether each trains on the GPU of its rank. A trainer of the CPU must not ask for one: a machine may have
    fewer.
    """

    rank: int
    size: int
    rendezvous: str
    cuda: bool

    @contextmanager
    def join(self) -> Iterator[Ranks]:
        """The process group, for as long as the context lasts. Waits until all ranks have joined."""
        backend = "cpu:gloo,cuda:nccl" if self.cuda else "gloo"
        if self.cuda:
            torch.cuda.set_device(self.rank)
        os.environ["LOCAL_RANK"] = str(self.rank)  # tells Lightning that the processes are there already
        Path(f"{self.rendezvous}.{self.rank}").touch()
        dist.init_process_group(backend, init_method=f"file://{self.rendezvous}", rank=self.rank, world_size=self.size)
        try:
            yield Ranks(
                rank=self.rank, size=self.size, group=dist.new_group(backend="gloo", timeout=_COLLECTIVE_TIMEOUT)
            )
        finally:
            dist.destroy_process_group()
            os.environ.pop("LOCAL_RANK", None)


@contextmanager
def launch(*, size: int, worker: Callable[[RankConfig], None], cuda: bool = False) -> Iterator[Ranks]:
    """Start `size - 1` processes that call `worker(rank_config)`, and be rank 0 among them. `cuda`: each with its GPU.

    `worker` must be importable by a fresh interpreter and enter `rank_config.join()`. Leaving the context waits for the
    others; leaving it with an exception ends them. Raises RuntimeError with the reason when another process failed.
    """
    if size < 2:
        raise ValueError(f"a group of processes needs at least 2, got {size}")
    with tempfile.TemporaryDirectory(prefix="rzero-") as folder:
        rank_config = RankConfig(rank=0, size=size, rendezvous=f"{folder}/rendezvous", cuda=cuda)
        others = mp.start_processes(
            _worker, args=(worker, rank_config), nprocs=size - 1, join=False, start_method="spawn"
        )
        assert others is not None
        try:
            _await_others(others, rank_config)
            with rank_config.join() as ranks:
                yield ranks
            while not others.join():
                pass
        except (RuntimeError, ProcessException) as error:
            if _is_lost_connection(error) and (reason := _failure(others)) is not None:
                raise RuntimeError(f"another process of the run failed: {reason}") from error
            raise
        finally:
            _end(others.processes)


def _worker(index: int, worker: Callable[[RankConfig], None], leader: RankConfig) -> None:
    parent = mp.parent_process()
    assert parent is not None
    assert parent.pid is not None
    die_with(parent.pid)  # torch asks for SIGINT then, which is ignored from here on
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # rank 0 hears it and ends the others
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # in order, so that grader processes end too
    worker(replace(leader, rank=index + 1))


def _is_lost_connection(error: Exception) -> bool:
    """Returns whether an error only shows a failure elsewhere (gloo then raises a plain RuntimeError)."""
    return isinstance(error, dist.DistError | ProcessException) or "gloo" in str(error)


def _end(processes: Sequence[BaseProcess]) -> None:
    deadline = time.monotonic() + _END_TIMEOUT_S
    for process in processes:
        if process.is_alive():
            process.terminate()
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()


def _await_others(others: ProcessContext, rank_config: RankConfig) -> None:
    """Return when all processes are about to join; raise RuntimeError when one ended before it did."""
    missing = {rank: Path(f"{rank_config.rendezvous}.{rank}") for rank in range(1, rank_config.size)}
    while any(not path.exists() for path in missing.values()):
        if any(process.exitcode for process in others.processes):
            raise RuntimeError("a process ended before it joined the others")
        time.sleep(0.05)


def _failure(others: ProcessContext) -> str | None:
    """The last line of what a failed process had to say; None when none failed within a short time."""
    try:
        others.join(timeout=_REASON_TIMEOUT_S)
    except ProcessException as failure:
        return str(failure).strip().splitlines()[-1]
    return None
