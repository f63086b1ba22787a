"""LoRA adapters as vLLM serves them: several over one base, each as a model with a name of its own.

So the Challenger that learns and the frozen Solver are there at the same time, and after the base only adapters travel.
Merged into bf16 weights most of a small delta would be rounded away, and the policy that is sampled would be another
than the one that learns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeAlias, TypeVar
from weakref import WeakKeyDictionary

from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from rzero.adapters import adapter_rank, adapter_weights, save_adapters
from rzero.engines.vllm.snapshot import Architecture
from rzero.gathering import sha256_of, tensor_errors
from rzero.policy import Policy
from rzero.sharding import whole
from rzero.types import Json

W = TypeVar("W")

BaseKey: TypeAlias = tuple[str, Architecture]
"""Which weights: their fingerprint, and what they are served as."""

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM makes room for (`vllm/config/lora.py`)."""
TOGETHER = 2
"""Adapters in one batch: of the policy that learns, and of the frozen Solver."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Adapter:
    """A directory of PEFT's format, the rank of what is in it, and which weights it lies over."""

    directory: Path
    rank: int
    base: BaseKey

    def flags(self) -> list[str]:
        """Returns the options of `vllm serve` that leave room for it."""
        return ["--enable-lora", "--max-lora-rank", str(room_for(self.rank)), "--max-loras", str(TOGETHER)]


def options(rank: int | None) -> Json:
    """Returns the options of a vLLM that serves adapters of `rank`, none without.

    Raises ValueError for a rank that vLLM has no room for.
    """
    return {} if rank is None else {"enable_lora": True, "max_lora_rank": room_for(rank), "max_loras": TOGETHER}


def room_for(rank: int) -> int:
    """Returns the smallest `max_lora_rank` of vLLM's that adapters of `rank` fit into.

    Raises ValueError when there is none.
    """
    if rank > RANKS[-1]:
        raise ValueError(f"policy.lora.rank is {rank}, vLLM serves adapters of rank {RANKS[-1]} at most")
    return next(room for room in RANKS if room >= rank)


def gather_adapters(policy: Policy) -> dict[str, Tensor]:
    """Returns the trained adapters' tensors, put together where they are split; every rank has to call this then."""
    return {name: whole(tensor) for name, tensor in adapter_weights(policy.model).items()}


class Bases(Generic[W]):
    """The weights that adapters lie over, each taken once, in the form W that a host keeps weights in."""

    def __init__(self) -> None:
        self._taken: dict[BaseKey, tuple[W, int]] = {}

    def take(self, key: BaseKey, take: Callable[[], W]) -> W:
        """Returns the weights of that key, which are `take()` when they are new."""
        weights, users = self._taken[key] if key in self._taken else (take(), 0)
        self._taken[key] = (weights, users + 1)
        return weights

    def forget(self, key: BaseKey) -> bool:
        """Lets go of them once; returns whether nobody needs them any more."""
        weights, users = self._taken.pop(key)
        if users > 1:
            self._taken[key] = (weights, users - 1)
        return users == 1


def write_adapter(policy: Policy, directory: Path, *, base: BaseKey) -> Adapter:
    """Writes the policy's adapters to a new directory. Every rank gathers at the same time where they are split."""
    rank, adapters = adapter_rank(policy.model), gather_adapters(policy)
    assert rank is not None
    directory.mkdir()
    with tensor_errors(directory):
        save_adapters(policy.model, adapters, directory)
    return Adapter(directory=directory, rank=rank, base=base)


_FINGERPRINTS: WeakKeyDictionary[PreTrainedModel, str] = WeakKeyDictionary()


def fingerprint(model: PreTrainedModel) -> str:
    """Returns the sha256 of a model's frozen weights, adapters left out. It is computed once for each object.

    Raises RuntimeError for one that is split over ranks before it was seen whole.
    """
    if model not in _FINGERPRINTS:
        weights = {name: tensor for name, tensor in model.state_dict().items() if ".lora_" not in name}
        if any(isinstance(tensor, DTensor) for tensor in weights.values()):
            raise RuntimeError("the weights below adapters are served before they are split: sync the engine first")
        _FINGERPRINTS[model] = sha256_of(weights)
    return _FINGERPRINTS[model]
