"""Parameters and gradients split or averaged over processes: FSDP2 and DDP as the update sees them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from rzero.adapters import unwrap_adapters


def shard(model: nn.Module, mesh: DeviceMesh) -> None:
    """Splits parameters over the ranks of `mesh` in place (FSDP2): each decoder layer, then the rest as one.

    Layers are what transformers itself refuses to split (`_no_split_modules`). Everything is split up again after the
    forward pass: between passes `parameters()` are then always the shards that the optimiser holds.
    """
    names = set(unwrap_adapters(model)._no_split_modules or ())
    for module in [module for module in model.modules() if type(module).__name__ in names]:
        fully_shard(module, mesh=mesh, reshard_after_forward=True)
    fully_shard(model, mesh=mesh, reshard_after_forward=True)


@contextmanager
def exchange(wrapper: nn.Module | None, *, now: bool) -> Iterator[None]:
    """Backward passes inside average gradients over ranks (`now`) or may only add to this rank's own.

    wrapper: what the strategy made of the module. DDP waits for the last micro-batch. FSDP2 exchanges after each: to
    wait, every rank would have to keep the gradient of all weights, unsplit and in float32, between micro-batches.
    """
    if isinstance(wrapper, DistributedDataParallel) and not now:
        with wrapper.no_sync():
            yield
    else:
        yield


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """Returns all of a tensor that may be split over ranks. Every rank has to call this, and gets it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def split_like(tensor: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Returns `tensor`, which every rank holds whole, split over ranks as `other` is where it has the same shape."""
    if not isinstance(other, DTensor) or tensor.shape != other.shape:
        return tensor
    return distribute_tensor(tensor.to(other.device), other.device_mesh, other.placements)
