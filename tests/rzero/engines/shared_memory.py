"""A transfer of weights through shared memory, which stands in for CUDA's: our side. vLLM's is beside it."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from rzero.engines.vllm.server_client import Replica
from rzero.engines.vllm.snapshot import in_memory
from rzero.engines.vllm.transfer import Routes, Sender
from rzero.gathering import Part
from rzero.types import Json

CHUNKS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedMemory:
    """Settings, and how many updates are yet to break in the middle (for all of them: settings cannot be changed)."""

    failures: ClassVar[list[str]] = []

    @property
    def server_options(self) -> Json:
        return {
            "weight_transfer_config": '{"backend": "shared_memory"}',
            "worker_extension_cls": f"{__name__}_worker.Extension",
            "load_format": "dummy",
        }

    @property
    def environment(self) -> dict[str, str]:
        return {}

    def open(self, *, devices: Sequence[str]) -> Sender:
        return _Sender(self.failures)


class _Sender:
    def __init__(self, failures: list[str]) -> None:
        self._failures = failures

    def keep(self, directory: Path, parts: Sequence[Part]) -> dict[str, Tensor]:
        return in_memory(parts)

    def give(self, replicas: Sequence[Replica], directory: Path, weights: Mapping[str, Tensor]) -> None:
        routes, names = Routes(replicas), list(weights)
        routes.init_weight_transfer_engine({"told": "at first"})
        routes.start_weight_update()
        with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
            for number in range(CHUNKS):
                path = str(Path(folder) / f"chunk_{number}")
                chosen = {name: weights[name] for name in names[number::CHUNKS]}
                size = sum(tensor.nbytes for tensor in chosen.values())
                shared = torch.from_file(path, shared=True, size=size, dtype=torch.uint8)
                shared.copy_(torch.cat([t.contiguous().view(-1).view(torch.uint8) for t in chosen.values()]))
                if number == 1 and self._failures:
                    path = self._failures.pop()
                routes.update_weights(
                    {
                        "names": list(chosen),
                        "dtype_names": [str(tensor.dtype).removeprefix("torch.") for tensor in chosen.values()],
                        "shapes": [list(tensor.shape) for tensor in chosen.values()],
                        "path": path,
                    }
                )
        routes.finish_weight_update()
