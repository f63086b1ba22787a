"""Starting the processes of a run on this machine.

The process that the user started is rank 0 and starts the others (`launch`); they find each other through a file, so
no port is fixed. On several machines torchrun or srun start all of them (`rzero.processes.started`).

torch.distributed.elastic does not replace this on one machine. `elastic_launch` starts rank 0 anew as well, in a child
whose Ctrl-C, progress and exit code (0, 1, 2, 3, 143) it keeps to itself (it raises ChildFailedError); a job of a
multirun, which runs inside another process, would need an agent each; and its agent leaves the workers behind when it
is killed. Whoever prefers it starts the run by torchrun, on one machine too.
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
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch.multiprocessing as mp
from torch.multiprocessing.spawn import ProcessContext, ProcessException

from rzero.processes.group import process_group
from rzero.processes.parent import die_with
from rzero.processes.ranks import Ranks
from rzero.processes.watch import Lost, is_lost_connection

_REASON_TIMEOUT_S = 30.0  # how long a process that failed is given to say why
_END_TIMEOUT_S = 10.0  # how long all processes together are given to end when they are told to
_HERE = "127.0.0.1"


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
        os.environ["LOCAL_RANK"] = str(self.rank)  # tells Lightning that the processes are there already
        Path(f"{self.rendezvous}.{self.rank}").touch()
        try:
            with process_group(
                rank=self.rank,
                size=self.size,
                meeting=f"file://{self.rendezvous}",
                address=_HERE,
                device=self.rank if self.cuda else None,
            ) as ranks:
                yield ranks
        finally:
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
        except Lost as loss:
            if killed := _killed(others.processes):
                raise Lost(killed) from loss
            raise
        except (RuntimeError, ProcessException) as error:
            if _is_failure_elsewhere(error) and (reason := _failure(others)) is not None:
                raise Lost(reason) from error
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


def _is_failure_elsewhere(error: Exception) -> bool:
    return isinstance(error, ProcessException) or is_lost_connection(error)


def _killed(processes: Sequence[BaseProcess]) -> str | None:
    """Which process a signal ended, and which signal; None when none did."""
    for rank, process in enumerate(processes, start=1):
        if process.exitcode is not None and process.exitcode < 0:
            return f"rank {rank} was ended by {signal.Signals(-process.exitcode).name}"
    return None


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
