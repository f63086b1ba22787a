"""A phase in the middle: what it has learned so far and the optimiser's state, to go on from where it was stopped.

That is all there is to keep. Random numbers are derived from the phase's seed and the step, batches too, the position
of the metrics is the ledger's, and the reference of the KL term is the start of the phase, which an earlier stage left
on disk. Tensors that are split over ranks are kept whole, so a phase may go on with another number of processes.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from rzero.durable import new_directory, new_file
from rzero.gathering import part_of, read_parts, tensor_errors, write_parts
from rzero.policy import Policy
from rzero.sharding import split_like

_WEIGHTS, _MOMENTS, _OPTIMISER = "trained", "moments", "optimizer.pt"


def save(directory: Path, *, model: nn.Module, optimizer: torch.optim.Optimizer, write: bool) -> None:
    """Writes what is trained of `model` (all weights, or adapters) and the optimiser, in a new folder `directory`.

    Every rank calls this, one of them with `write`: that one holds a file at a time in the memory of its host, the
    others nothing. Raises OSError with the path when the disk fails.
    """
    if not write:
        _write(directory, model=model, optimizer=optimizer, write=False)
        return
    with new_directory(directory) as folder, tensor_errors(folder):
        _write(folder, model=model, optimizer=optimizer, write=True)


def _write(folder: Path, *, model: nn.Module, optimizer: torch.optim.Optimizer, write: bool) -> None:
    """Weights, then the tensors of the optimiser's state, then the rest of it, which is small."""
    weights = [part_of(name, parameter) for name, parameter in _trained(model).items()]
    write_parts(folder, weights, stem=_WEIGHTS, write=write, purpose="a checkpoint's weights")
    state = optimizer.state_dict()
    tensors = [part_of(f"{index}.{key}", tensor) for index, key, tensor in _tensors(state["state"])]
    write_parts(folder, tensors, stem=_MOMENTS, write=write, purpose="a checkpoint of the optimiser")
    if not write:
        return
    state["state"] = {
        index: {key: value for key, value in values.items() if not isinstance(value, Tensor)}
        for index, values in state["state"].items()
    }
    with new_file(folder / _OPTIMISER) as file, io.BufferedWriter(file) as buffered:
        torch.save(state, buffered)


@torch.no_grad()
def load_weights(directory: Path, model: nn.Module) -> None:
    """Into a model as it was at the start of the phase, before it is split over ranks, one tensor after the other.

    Raises ValueError when the checkpoint is of another model, or of a version that kept the optimiser in one file.
    """
    if not any(directory.glob(f"{_MOMENTS}*.safetensors")):
        raise ValueError(f"{directory} is a checkpoint of an earlier version; remove it to start the phase again")
    trained, saved = _trained(model), read_parts(directory, stem=_WEIGHTS)
    if trained.keys() != saved.keys():
        raise ValueError(f"{directory} is a checkpoint of another model; remove it to start the phase again")
    for name, parameter in trained.items():
        if not parameter.is_meta:  # an outline is given the first rank's
            parameter.copy_(saved[name]())


def load_optimizer(directory: Path, optimizer: torch.optim.Optimizer) -> None:
    """Into a fresh optimiser over the same parameters, however they are split now. Every rank calls this.

    A tensor is whole on a rank only until its share of it is taken.
    """
    state = torch.load(directory / _OPTIMISER, weights_only=True)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for name, read in read_parts(directory, stem=_MOMENTS).items():
        index, key = name.split(".", 1)
        share = split_like(read(), other=parameters[int(index)])
        state["state"][int(index)][key] = share.clone()  # what was read lies in the file
    optimizer.load_state_dict(state)


def _tensors(state: dict[int, dict[str, object]]) -> Iterator[tuple[int, str, Tensor]]:
    """The tensors in the state of an optimiser by parameter and name: moments, and a count of steps."""
    for index, values in state.items():
        for key, value in values.items():
            if isinstance(value, Tensor):
                yield index, key, value


def space_needed(policy: Policy, *, checkpoints: bool) -> int:
    """Bytes of disk that a phase may take: what was trained, and two checkpoints, the old and the new one.

    A checkpoint is the trained weights and, for AdamW, two more numbers for each.
    """
    return policy.size(trained=True) * (1 + (2 * 3 if checkpoints else 0))


def _trained(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
