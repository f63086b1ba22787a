"""Several processes that run one loop together.

Every process of a run executes the same self-play (SPMD). Text is everybody's: each process draws its share of the rows
of a rollout and receives the others' (`ShardedEngine`), or rank 0 has servers draw them all (`LedEngine`), so each sees
the same groups and makes the same decisions.
What judges text (votes, rewards, curriculum) runs on rank 0 only and is handed on (`Ranks.shared`), and only rank 0
writes. In the update each process learns from its own hand of every window's rows (`deal`), weighted by totals of the
whole window, which each can count for itself; the strategy of Lightning (DDP or FSDP2) then averages gradients.

The process that the user started is rank 0 and starts the others (`lead`); they find each other through a file, so
no port is fixed. All processes are on one machine.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.multiprocessing.spawn import ProcessException
from torch.nn.parallel import DistributedDataParallel

from rzero.parent import die_with
from rzero.types import Group, Prompt, Sampling

P = ParamSpec("P")
T = TypeVar("T")

_PATIENCE_S = 30.0  # how long a process that failed is given to say why
_ENDING_S = 10.0  # how long all processes together are given to end when they are told to
# How long the others wait while rank 0 draws or judges: hours at the paper's size. One that dies is noticed at once.
_ERRAND = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranks:
    """This process (`rank`, from 0) among the `size` of a run. All ranks call the methods, in the same order.

    group: what objects are handed on through; None: the default process group.
    """

    rank: int = 0
    size: int = 1
    group: Any = None

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    def gather(self, value: T) -> list[T]:
        """Every rank's value, in the order of ranks."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self.group)
        return values

    def shared(self, function: Callable[P, T]) -> Callable[P, T]:
        """`function`, called on rank 0 alone; every rank returns what it returned there.

        An exception is raised on rank 0 only; the others are ended when rank 0 leaves `lead`.
        """
        if self.size == 1:
            return function

        def ask_first(*args: P.args, **kwargs: P.kwargs) -> T:
            answer: list[Any] = [function(*args, **kwargs) if self.first else None]
            dist.broadcast_object_list(answer, src=0, group=self.group)
            result: T = answer[0]
            return result

        return ask_first


# ------------------------------------------------------------------------------------------------------- processes


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """Where a process belongs: its rank, how many there are, and the file through which they meet."""

    rank: int
    size: int
    rendezvous: str

    @contextmanager
    def join(self) -> Iterator[Ranks]:
        """The process group, for as long as the context lasts. Waits until everybody has joined."""
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        if torch.cuda.is_available():
            torch.cuda.set_device(self.rank)
        os.environ["LOCAL_RANK"] = str(self.rank)  # tells Lightning that the processes are there already
        Path(f"{self.rendezvous}.{self.rank}").touch()
        dist.init_process_group(backend, init_method=f"file://{self.rendezvous}", rank=self.rank, world_size=self.size)
        try:
            yield Ranks(rank=self.rank, size=self.size, group=dist.new_group(backend="gloo", timeout=_ERRAND))
        finally:
            dist.destroy_process_group()
            os.environ.pop("LOCAL_RANK", None)


def alone() -> AbstractContextManager[Ranks]:
    """A run in this process only."""
    return nullcontext(Ranks())


@contextmanager
def lead(*, size: int, follow: Callable[[Seat], None]) -> Iterator[Ranks]:
    """Start `size - 1` processes that call `follow(seat)`, and be rank 0 among them.

    `follow` must be importable by a fresh interpreter and enter `seat.join()`. Leaving the context waits for the
    others; leaving it with an exception ends them. Raises RuntimeError with the reason when another process failed.
    """
    if size < 2:
        raise ValueError(f"a group of processes needs at least 2, got {size}")
    with tempfile.TemporaryDirectory(prefix="rzero-") as folder:
        seat = Seat(rank=0, size=size, rendezvous=f"{folder}/rendezvous")
        others = mp.start_processes(_follow, args=(follow, seat), nprocs=size - 1, join=False, start_method="spawn")
        assert others is not None
        try:
            _await_others(others, seat)
            with seat.join() as ranks:
                yield ranks
            while not others.join():
                pass
        except (RuntimeError, ProcessException) as error:
            if _is_lost_connection(error) and (reason := _failure(others)) is not None:
                raise RuntimeError(f"another process of the run failed: {reason}") from error
            raise
        finally:
            _end(others.processes)


def _follow(index: int, follow: Callable[[Seat], None], leader: Seat) -> None:
    parent = mp.parent_process()
    assert parent is not None
    assert parent.pid is not None
    die_with(parent.pid)  # torch asks for SIGINT then, which is ignored from here on
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # rank 0 hears it and ends the others
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # in order, so that grader processes end too
    follow(replace(leader, rank=index + 1))


def _is_lost_connection(error: Exception) -> bool:
    """Whether an error is what is seen here of a failure elsewhere (gloo then raises a plain RuntimeError)."""
    return isinstance(error, dist.DistError | ProcessException) or "gloo" in str(error)


def _end(processes: Sequence[Any]) -> None:
    deadline = time.monotonic() + _ENDING_S
    for process in processes:
        if process.is_alive():
            process.terminate()
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()


def _await_others(others: Any, seat: Seat) -> None:
    """Return when all processes are about to join; raise RuntimeError when one ended before it did."""
    missing = {rank: Path(f"{seat.rendezvous}.{rank}") for rank in range(1, seat.size)}
    while any(not path.exists() for path in missing.values()):
        if any(process.exitcode for process in others.processes):
            raise RuntimeError("a process ended before it joined the others")
        time.sleep(0.05)


def _failure(others: Any) -> str | None:
    """The last line of what a failed process had to say; None when none failed within a short time."""
    try:
        others.join(timeout=_PATIENCE_S)
    except ProcessException as failure:
        return str(failure).strip().splitlines()[-1]
    return None


# -------------------------------------------------------------------------------------------------------- rollouts


class ShardedEngine:
    """A `RolloutEngine` in each of several processes that acts as one: everybody draws a share, everybody gets it all.

    The engine behind it takes `share=(part, parts)` and then draws only that part of the call's rows, each exactly as
    it would have without (same random numbers), so the groups do not depend on the number of processes.
    """

    def __init__(self, engine: Any, ranks: Ranks) -> None:
        self._engine, self._ranks = engine, ranks

    def sync(self, policy: Any) -> None:
        self._engine.sync(policy)

    def close(self) -> None:
        self._engine.close()

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling, progress: Any = None) -> list[Group]:
        share = (self._ranks.rank, self._ranks.size)
        mine = self._engine.generate(prompts, sampling, progress, share=share)
        parts = self._ranks.gather([group.completions for group in mine])
        # shares are consecutive rows, so putting them behind one another restores the order of samples
        return [
            replace(group, completions=tuple(completion for part in parts for completion in part[index]))
            for index, group in enumerate(mine)
        ]


class LedEngine:
    """A `RolloutEngine` on servers, in each of several processes: rank 0 has them draw, everybody gets the groups.

    The engine behind it takes `ranks` in `sync`: every rank helps to put together weights that are split over them and
    to check the servers against the policy.
    """

    def __init__(self, engine: Any, ranks: Ranks) -> None:
        self._engine, self._ranks = engine, ranks

    def sync(self, policy: Any) -> None:
        self._engine.sync(policy, ranks=self._ranks)

    def close(self) -> None:
        self._engine.close()

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling, progress: Any = None) -> list[Group]:
        return self._ranks.shared(self._engine.generate)(prompts, sampling, progress)


def across(engine: Any, ranks: Ranks) -> Any:
    """An engine for all of several processes; itself when there is one.

    `engine.drawn_by` says which processes can draw from it: `each` its share, or the `first` for all. Raises ValueError
    for an engine that says something else or nothing: it serves one process.
    """
    if ranks.size == 1:
        return engine
    match getattr(engine, "drawn_by", None):
        case "each":
            return ShardedEngine(engine, ranks)
        case "first":
            return LedEngine(engine, ranks)
        case _:
            raise ValueError(
                f"{type(engine).__name__} with these settings serves runs of one process: set trainer.devices=1, or "
                "use engine=vllm_server or embedded"
            )


# ---------------------------------------------------------------------------------------------------------- update


def deal(lengths: Sequence[int], *, size: int) -> list[list[int]]:
    """Indices of the rows each of `size` ranks learns from, in order: about equally many rows and tokens for each.

    Rows go round by falling length, forwards and backwards in turn. With fewer rows than ranks some hands are empty.
    """
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    hands: list[list[int]] = [[] for _ in range(size)]
    for place, index in enumerate(order):
        turn, seat = divmod(place, size)
        hands[seat if turn % 2 == 0 else size - 1 - seat].append(index)
    return [sorted(hand) for hand in hands]


def shard(model: Any, mesh: Any) -> None:
    """Split parameters over the ranks of `mesh` in place (FSDP2): each decoder layer, then the rest as one.

    Layers are what transformers itself refuses to split (`_no_split_modules`). Everything is split up again after the
    forward pass: between passes `parameters()` are then always the shards that the optimiser holds.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    names = set(base._no_split_modules or ())
    for module in [module for module in base.modules() if type(module).__name__ in names]:
        fully_shard(module, mesh=mesh, reshard_after_forward=True)
    fully_shard(model, mesh=mesh, reshard_after_forward=True)


@contextmanager
def exchange(model: nn.Module, *, wrapper: Any, now: bool) -> Iterator[None]:
    """Backward passes inside average gradients over ranks (`now`) or only add to this rank's own.

    `wrapper` is what the strategy made of the module (DDP's wrapper has the switch; under FSDP2 the model has).
    """
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(now)
        yield
    elif isinstance(wrapper, DistributedDataParallel) and not now:
        with wrapper.no_sync():
            yield
    else:
        yield


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """All of a tensor that may be split over ranks. Every rank has to call this, and gets it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def split_like(tensor: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """`tensor`, which every rank holds whole, split over ranks as `other` is where it has the same shape."""
    if not isinstance(other, DTensor) or tensor.shape != other.shape:
        return tensor
    return distribute_tensor(tensor.to(other.device), other.device_mesh, other.placements)
