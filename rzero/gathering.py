"""A model's tensors one at a time: put together from the ranks' shards, rounded, handed on, dropped.

What a sync gives to engines, what a policy leaves on disk and what a checkpoint keeps goes through here, so that no
rank ever holds a whole model beside its share of it: on a device one tensor is whole at a time, and in the memory of
the host that writes there is one file.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from rzero.adapters import unwrap_adapters
from rzero.durable import require_space
from rzero.sharding import whole

FILE_BYTES = 5 * 10**9
"""The largest file of weights, unless one tensor is larger: what hubs and file systems are used to."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Part:
    """A tensor that is put together when its turn comes.

    names: all that it is written under; several when they are tied. shape, dtype: of what `gather` returns, where it is
    computed; every rank has to call it when it is split over ranks.
    """

    names: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: torch.dtype
    gather: Callable[[], Tensor]

    @property
    def size(self) -> int:
        """Bytes, under all names together."""
        return len(self.names) * math.prod(self.shape) * self.dtype.itemsize


def part_of(name: str, tensor: Tensor) -> Part:
    """Returns `tensor`, which may be split over ranks, as a part."""
    return Part(names=(name,), shape=tuple(tensor.shape), dtype=tensor.dtype, gather=lambda: whole(tensor.detach()))


def model_parts(model: PreTrainedModel, *, dtype: torch.dtype | None = None, with_adapters: bool = True) -> list[Part]:
    """Returns a model's weights under their Hugging Face names, rounded to `dtype` (None: each one's own).

    LoRA deltas are added to copies, without `with_adapters` left out; the model itself is not touched. Weights that are
    tied are one part. A part that needs neither is the model's own tensor, not a copy.
    """
    base = unwrap_adapters(model)
    layers = base.named_modules() if with_adapters else ()
    adapted = {f"{name}.weight": module for name, module in layers if hasattr(module, "lora_A")}
    owner = {name: id(parameter) for name, parameter in base.named_parameters(remove_duplicate=False)}
    tensors: dict[int, tuple[Tensor, list[str]]] = {}
    for key, tensor in base.state_dict().items():
        if ".lora_" not in key:
            number = owner.get(key, id(tensor))
            tensors.setdefault(number, (tensor.detach(), []))[1].append(key.replace(".base_layer.", "."))
    return [_merged_part(tensor, names, adapted.get(names[0]), dtype) for tensor, names in tensors.values()]


def _merged_part(tensor: Tensor, names: Sequence[str], adapted: Any | None, dtype: torch.dtype | None) -> Part:
    rounded = dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype

    @torch.no_grad()
    def gather() -> Tensor:
        merged = whole(tensor)
        if adapted is not None:
            for adapter in adapted.active_adapters:
                merged = merged + whole(adapted.get_delta_weight(adapter))
        return merged.to(rounded)

    return Part(names=tuple(names), shape=tuple(tensor.shape), dtype=rounded, gather=gather)


def take_part(parts: Sequence[Part]) -> None:
    """Gathers them for another rank, and keeps nothing."""
    for part in parts:
        part.gather()


def merged_weights(model: PreTrainedModel, *, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """Returns all of `model_parts` by name, those of a model that was split over ranks in host memory.

    For who needs the whole model at once, as an engine that computes with it does. Every rank has to call this when it
    is split. Tied weights share memory as before.
    """
    split = any(isinstance(parameter, DTensor) for parameter in model.parameters())
    weights: dict[str, Tensor] = {}
    for part in model_parts(model, dtype=dtype):
        tensor = part.gather().cpu() if split else part.gather()
        weights |= dict.fromkeys(part.names, tensor)
    return weights


def sha256_of(weights: Mapping[str, Tensor]) -> str:
    """Returns the sha256 over names, dtypes, shapes and bytes, in the order of the names."""
    return sha256_of_parts([part_of(name, tensor) for name, tensor in weights.items()])


def sha256_of_parts(parts: Sequence[Part]) -> str:
    """Returns `sha256_of` all of them, of which one is put together at a time."""
    digest = hashlib.sha256()
    part_of_name = {name: part for part in parts for name in part.names}
    for name in sorted(part_of_name):
        _add(digest, name, part_of_name[name].gather())
    return digest.hexdigest()


def _add(digest: hashlib._Hash, name: str, tensor: Tensor) -> None:
    """A function of its own, so that the tensor is gone before the next one is put together."""
    digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
    digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)


# ---------------------------------------------------------------------------------------------------------------- files


def write_parts(
    directory: Path, parts: Sequence[Part], *, stem: str, write: bool, purpose: str, limit: int | None = None
) -> None:
    """Writes `stem`.safetensors, or, above `limit` bytes (None: FILE_BYTES), several such files and their index.

    The layout is Hugging Face's; its format knows no tensor with two names, so a part is written once for each. Every
    rank calls this, one of them with `write`; the others, for which the folder need not exist, keep nothing.

    Raises OSError (no space), with the folder and the bytes that `purpose` needs, before anything is written, and with
    the path when the disk fails in the middle.
    """
    if not write:
        take_part(parts)
        return
    require_space(directory, sum(part.size for part in parts), purpose=purpose)
    shards = _shards(parts, limit=FILE_BYTES if limit is None else limit)
    place: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        name = _file(stem, number, len(shards))
        _write_shard(directory / name, shard)
        place |= {alias: name for part in shard for alias in part.names}
    if len(shards) > 1:
        total = {"total_size": sum(part.size for part in parts)}
        index = json.dumps({"metadata": total, "weight_map": place}, indent=1, sort_keys=True)
        (directory / f"{stem}.safetensors.index.json").write_text(index, encoding="utf-8")


def _write_shard(path: Path, shard: Sequence[Part]) -> None:
    """A function of its own, so that nothing of one file is held when the next one begins."""
    tensors: dict[str, Tensor] = {}
    for part in shard:
        first, *others = part.names
        tensors[first] = part.gather().cpu().contiguous()
        tensors |= {name: tensors[first].clone() for name in others}
    with tensor_errors(path):
        save_file(tensors, path, metadata={"format": "pt"})


def _shards(parts: Sequence[Part], *, limit: int) -> list[list[Part]]:
    """Neighbours together, as many as fit; a part that is larger than a file has one of its own. At least one."""
    shards: list[list[Part]] = [[]]
    held = 0
    for part in parts:
        if shards[-1] and held + part.size > limit:
            shards.append([])
            held = 0
        shards[-1].append(part)
        held += part.size
    return shards


def _file(stem: str, number: int, count: int) -> str:
    return f"{stem}.safetensors" if count == 1 else f"{stem}-{number:05d}-of-{count:05d}.safetensors"


def read_parts(directory: Path, *, stem: str) -> dict[str, Callable[[], Tensor]]:
    """Returns, for each name that `write_parts` wrote, a function that reads that tensor alone.

    Raises FileNotFoundError when the files are missing.
    """
    index = directory / f"{stem}.safetensors.index.json"
    if index.is_file():
        files = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    else:
        files = [f"{stem}.safetensors"]
    found: dict[str, Callable[[], Tensor]] = {}
    for name in files:
        with safe_open(directory / name, framework="pt") as file:
            found |= {key: _reader(directory / name, key) for key in file.keys()}  # noqa: SIM118 - no mapping
    return found


def _reader(path: Path, key: str) -> Callable[[], Tensor]:
    def read() -> Tensor:
        with safe_open(path, framework="pt") as file:
            tensor: Tensor = file.get_tensor(key)
            return tensor

    return read


@contextmanager
def tensor_errors(path: Path) -> Iterator[None]:
    """Turns what safetensors raises of its own when a file cannot be written into the OSError that it is."""
    try:
        yield
    except SafetensorError as error:
        raise OSError(errno.EIO, str(error), str(path)) from error
