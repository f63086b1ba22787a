"""Parameters and gradients split or averaged over processes: FSDP2 and DDP as the update sees them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from rzero.adapters import unwrap_adapters
from rzero.processes.ranks import Ranks


def shard(model: nn.Module, mesh: DeviceMesh, *, fill: Callable[[nn.Module], None] | None = None) -> None:
    """Splits parameters over the ranks of `mesh` in place (FSDP2): each decoder layer, then the rest as one.

    Layers are what transformers itself refuses to split (`_no_split_modules`). Everything is split up again after the
    forward pass: between passes `parameters()` are then always the shards that the optimiser holds.

    fill: is called with each of these just before it is split, and gives it weights where it has none.
    """
    names = set(unwrap_adapters(model)._no_split_modules or ())
    layers = [module for module in model.modules() if type(module).__name__ in names]
    for module in [*layers, model]:
        if fill is not None:
            fill(module)
        fully_shard(module, mesh=mesh, reshard_after_forward=True)


def is_outline(model: nn.Module) -> bool:
    """Returns whether there are weights that the model has no values for: they are on the device `meta`."""
    return any(parameter.is_meta for parameter in model.parameters())


@torch.no_grad()
def fill_from_first(module: nn.Module, *, ranks: Ranks, device: torch.device) -> None:
    """Puts the first rank's weights and buffers on `device` of ranks that hold an outline, one after the other.

    Every rank calls this. What is split over ranks already is left as it is.
    """
    tensors = {
        name: tensor
        for name, tensor in chain(module.named_parameters(), module.named_buffers())
        if not isinstance(tensor, DTensor)
    }
    # of the first, because some architectures keep some of their weights in another dtype than they are asked to
    dtypes = ranks.from_first({name: tensor.dtype for name, tensor in tensors.items()})
    for name, tensor in tensors.items():
        if tensor.is_meta:
            room = torch.empty(tensor.shape, dtype=dtypes[name], device=device)
            weight = isinstance(tensor, nn.Parameter)
            # swapped, so that tied weights stay one tensor
            torch.utils.swap_tensors(tensor, nn.Parameter(room, tensor.requires_grad) if weight else room)
        dist.broadcast(tensor.detach().to(device).contiguous(), src=0)


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
