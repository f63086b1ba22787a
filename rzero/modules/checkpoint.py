"""A phase in the middle: what it has learned so far and the optimiser's state, to go on from where it was stopped.

That is all there is to keep. Random numbers are derived from the phase's seed and the step, batches too, the position
of the metrics is the ledger's, and the reference of the KL term is the start of the phase, which an earlier stage left
on disk. Tensors that are split over ranks are kept whole, so a phase may go on with another number of processes.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rzero.durable import new_directory, new_file
from rzero.policy import Policy, tensor_errors
from rzero.sharding import split_like, whole

_BUFFER = 1 << 20  # bytes: torch writes every tensor in several small pieces
_WEIGHTS, _OPTIMISER = "trained.safetensors", "optimizer.pt"


def save(directory: Path, *, model: nn.Module, optimizer: torch.optim.Optimizer, write: bool) -> None:
    """Writes what is trained of `model` (all weights, or adapters) and the optimiser, in a new folder `directory`.

    Every rank calls this, one of them with `write`. Raises OSError with the path when the disk fails.
    """
    weights = {name: whole(p.detach()).cpu().contiguous() for name, p in _trained(model).items()}
    state = _mapped(optimizer.state_dict(), lambda tensor: whole(tensor.detach()).cpu())
    if not write:
        return
    with new_directory(directory) as folder, tensor_errors(folder):
        save_file(weights, folder / _WEIGHTS)
        with new_file(folder / _OPTIMISER) as file, io.BufferedWriter(file, _BUFFER) as buffered:
            torch.save(state, buffered)


@torch.no_grad()
def load_weights(directory: Path, model: nn.Module) -> None:
    """Into a model as it was at the start of the phase, before it is split over ranks.

    Raises ValueError when the checkpoint is of another model.
    """
    trained, saved = _trained(model), load_file(directory / _WEIGHTS)
    if trained.keys() != saved.keys():
        raise ValueError(f"{directory} is a checkpoint of another model; remove it to start the phase again")
    for name, parameter in trained.items():
        parameter.copy_(saved[name])


def load_optimizer(directory: Path, optimizer: torch.optim.Optimizer) -> None:
    """Into a fresh optimiser over the same parameters, however they are split now. Every rank calls this."""
    state = torch.load(directory / _OPTIMISER, weights_only=True)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, values in state["state"].items():
        state["state"][index] = _mapped(values, functools.partial(split_like, other=parameters[index]))
    optimizer.load_state_dict(state)


def space_needed(policy: Policy, *, checkpoints: bool) -> int:
    """Bytes of disk that a phase may take: what was trained, and two checkpoints, the old and the new one.

    A checkpoint is the trained weights and, for AdamW, two more numbers for each.
    """
    return policy.size(trained=True) * (1 + (2 * 3 if checkpoints else 0))


def _trained(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def _mapped(node: object, change: Callable[[Tensor], Tensor]) -> object:
    """`node` with every tensor in its dictionaries and lists replaced by `change(tensor)`."""
    if isinstance(node, Tensor):
        return change(node)
    if isinstance(node, dict):
        return {key: _mapped(value, change) for key, value in node.items()}
    if isinstance(node, list):
        return [_mapped(value, change) for value in node]
    return node
