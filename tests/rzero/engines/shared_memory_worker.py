"""A transfer of weights through shared memory, which stands in for CUDA's: vLLM's side.

    vllm serve ... --worker-extension-cls tests.rzero.engines.shared_memory_worker.Extension

makes vLLM import this file, and so know its engine, before it makes one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

from rzero.types import Json


@dataclass
class _Init(WeightTransferInitInfo):
    told: str


@dataclass
class _Update(WeightTransferUpdateInfo):
    names: list[str]
    dtype_names: list[str]
    shapes: list[list[int]]
    path: str


class _Engine(WeightTransferEngine[_Init, _Update]):
    init_info_cls, update_info_cls = _Init, _Update

    def init_transfer_engine(self, init_info: _Init) -> None:
        assert init_info.told == "at first"

    def start_weight_update(self) -> None:
        initialize_layerwise_reload(self.model)

    def finish_weight_update(self) -> None:
        finalize_layerwise_reload(self.model, self.model_config)

    def update_weights(self, update_info: Json) -> None:
        self.receive_weights(self.parse_update_info(update_info))  # nothing to wait for on a CPU

    def receive_weights(self, update_info: _Update) -> None:
        dtypes = [getattr(torch, name) for name in update_info.dtype_names]
        sizes = [math.prod(shape) * d.itemsize for shape, d in zip(update_info.shapes, dtypes, strict=True)]
        shared = torch.from_file(update_info.path, shared=False, size=sum(sizes), dtype=torch.uint8)
        pieces = zip(update_info.names, update_info.shapes, dtypes, shared.split(sizes), strict=True)
        self.model.load_weights((name, piece.view(dtype).view(shape)) for name, shape, dtype, piece in pieces)

    def shutdown(self) -> None: ...


class Extension:
    """Nothing of its own: it is there so that vLLM imports this file."""


WeightTransferEngineFactory.register_engine("shared_memory", _Engine)
