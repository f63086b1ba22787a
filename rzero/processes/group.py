"""The process group of a run: one group for tensors, one for objects, and a watch over those who are in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

from rzero.processes.ranks import Ranks
from rzero.processes.watch import watched

# How long the others wait while rank 0 draws or judges: hours at the paper's size. One that dies is noticed at once.
_OBJECTS_TIMEOUT = timedelta(days=1)


@contextmanager
def process_group(
    *, rank: int, size: int, meeting: str | dist.Store, address: str, device: int | None
) -> Iterator[Ranks]:
    """The process group, for as long as the context lasts. Waits until all ranks have joined.

    meeting: where they find each other, as torch's `init_method` or as a store. address: where the others reach rank
    0. device: the GPU of this process; None: a trainer of the CPU, which must not ask for one.
    """
    where = {"init_method": meeting} if isinstance(meeting, str) else {"store": meeting}
    if device is not None:
        torch.cuda.set_device(device)
    backend = "gloo" if device is None else "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, rank=rank, world_size=size, **where)
    try:
        ranks = Ranks(rank=rank, size=size, group=dist.new_group(backend="gloo", timeout=_OBJECTS_TIMEOUT))
        if size == 1:
            yield ranks
        else:
            with watched(ranks, address=address):
                yield ranks
    finally:
        dist.destroy_process_group()
