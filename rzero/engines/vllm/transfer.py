"""How weights get to vLLM servers: through files, or by vLLM's own transfer between processes.

vLLM's (0.32, `vllm/distributed/weight_transfer/`) moves bf16 weights in seconds where files take ten: over NCCL to
servers on any machine, or by handles to the memory of a GPU that trainer and server share (CUDA IPC). Both have been
read and tested against servers without a GPU, and never run on one. Weights are kept in host memory until a server
needs them, because Challenger and frozen Solver take turns there; only rank 0 sends.
"""

from __future__ import annotations

import base64
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar, cast

import torch
from torch import Tensor

from rzero.engines.vllm.server_client import Replica
from rzero.engines.vllm.server_process import free_port
from rzero.engines.vllm.snapshot import in_memory
from rzero.gathering import Part, write_parts
from rzero.types import Json

if TYPE_CHECKING:  # not installed everywhere
    from vllm.distributed.weight_transfer.base import ParamMeta, VLLMWeightSyncClient, WeightSource
    from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerWeightTransferEngine

T = TypeVar("T")

MIB = 2**20


class Sender(Protocol):
    """Gives weights to the servers of one host."""

    def keep(self, directory: Path, parts: Sequence[Part]) -> dict[str, Tensor]:
        """Gathers weights and keeps them for `give`; returns those that are kept in memory."""

    def give(self, replicas: Sequence[Replica], directory: Path, weights: Mapping[str, Tensor]) -> None:
        """All replicas have them afterwards. When it raises, they may have neither these nor the ones before."""


class Transfer(Protocol):
    """Settings of a way to give weights to servers; hashable.

    server_options: of `vllm serve`. environment: variables of servers that we start.
    """

    @property
    def server_options(self) -> Json: ...

    @property
    def environment(self) -> dict[str, str]: ...

    def open(self, *, devices: Sequence[str]) -> Sender:
        """Returns a sender to servers on these devices (CUDA_VISIBLE_DEVICES of each; empty: not known)."""


def on_all(replicas: Sequence[Replica], work: Callable[[Replica], T]) -> list[T]:
    """Returns what `work` returns for each replica; all are worked on at once."""
    with ThreadPoolExecutor(max_workers=len(replicas)) as pool:
        return list(pool.map(work, replicas))


# ---------------------------------------------------------------------------------------------------------------- files


@dataclass(frozen=True, slots=True, kw_only=True)
class ThroughFiles:
    """Weights travel as safetensors files in a folder that trainer and servers see."""

    @property
    def server_options(self) -> Json:
        return {}

    @property
    def environment(self) -> dict[str, str]:
        return {}

    def open(self, *, devices: Sequence[str]) -> Sender:
        return _Files()


class _Files:
    def keep(self, directory: Path, parts: Sequence[Part]) -> dict[str, Tensor]:
        write_parts(directory, parts, stem="model", write=True, purpose="giving vLLM servers weights")
        return {}

    def give(self, replicas: Sequence[Replica], directory: Path, weights: Mapping[str, Tensor]) -> None:
        on_all(replicas, lambda replica: replica.load(directory))


# ------------------------------------------------------------------------------------------------------ vLLM's transfer


class Routes:
    """vLLM's client of a transfer (`VLLMWeightSyncClient`): the same four routes on every replica, all at once."""

    def __init__(self, replicas: Sequence[Replica]) -> None:
        self._replicas = replicas

    def world_size(self) -> int:
        """Returns the number of workers of all replicas together."""
        return sum(self._sizes())

    def init_weight_transfer_engine(self, init_info: Json) -> None:
        """Where workers have ranks (NCCL), those of a replica come behind those of the replicas before it."""
        infos = [dict(init_info) for _ in self._replicas]
        if "rank_offset" in init_info:
            sizes = self._sizes()
            for number, info in enumerate(infos):
                info["rank_offset"] += sum(sizes[:number])
        self._post("/init_weight_transfer_engine", [{"init_info": info} for info in infos])

    def start_weight_update(self) -> None:
        self._post("/start_weight_update", [{} for _ in self._replicas])

    def update_weights(self, update_info: Json) -> None:
        self._post("/update_weights", [{"update_info": _for_json(update_info)} for _ in self._replicas])

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        body = {} if weight_version is None else {"weight_version": weight_version}
        self._post("/finish_weight_update", [body for _ in self._replicas])
        on_all(self._replicas, Replica.empty_prefix_cache)

    def _post(self, path: str, bodies: Sequence[Json]) -> None:
        body = dict(zip(self._replicas, bodies, strict=True))
        on_all(self._replicas, lambda replica: replica.post(path, body[replica], phase="being given weights"))

    def _sizes(self) -> list[int]:
        return on_all(self._replicas, Replica.world_size)


def _for_json(update_info: Json) -> Json:
    """Handles to a GPU's memory are Python objects, which vLLM takes pickled where it is allowed to."""
    handles = update_info.get("ipc_handles")
    if handles is None:
        return {name: value for name, value in update_info.items() if value is not None}
    others = {name: value for name, value in update_info.items() if name != "ipc_handles" and value is not None}
    return {**others, "ipc_handles_pickled": base64.b64encode(pickle.dumps(handles)).decode()}


@dataclass(frozen=True, slots=True, kw_only=True)
class OverNccl:
    """Weights are broadcast from rank 0's GPU to the workers of all servers. Never run on GPUs.

    address: of this machine, where servers reach it. buffer_mib: how much is sent at once, MiB. NCCL does not connect
    two processes on the same GPU: servers have GPUs of their own.
    """

    address: str
    buffer_mib: int

    @property
    def server_options(self) -> Json:
        return {"weight_transfer_config": '{"backend": "nccl"}', "load_format": "dummy"}

    @property
    def environment(self) -> dict[str, str]:
        return {}

    def open(self, *, devices: Sequence[str]) -> Sender:
        return _Nccl(self)


class _Nccl:
    def __init__(self, settings: OverNccl) -> None:
        self._settings = settings
        self._engine: NCCLTrainerWeightTransferEngine | None = None

    def keep(self, directory: Path, parts: Sequence[Part]) -> dict[str, Tensor]:
        return in_memory(parts)

    def give(self, replicas: Sequence[Replica], directory: Path, weights: Mapping[str, Tensor]) -> None:
        if self._engine is None:
            self._engine = self._connected(Routes(replicas))
        self._engine.source = cast("WeightSource", _Source(weights))
        self._engine.send_weights()

    def _connected(self, routes: Routes) -> NCCLTrainerWeightTransferEngine:
        from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo, NCCLTrainerWeightTransferEngine

        about = NCCLTrainerInitInfo(
            rank=0,
            master_address=self._settings.address,
            master_port=free_port(),
            world_size=1 + routes.world_size(),
            packed_buffer_size_bytes=self._settings.buffer_mib * MIB,
        )
        client, nothing_yet = cast("VLLMWeightSyncClient", routes), cast("WeightSource", _Source({}))
        return NCCLTrainerWeightTransferEngine.trainer_init(about, client=client, source=nothing_yet)


@dataclass(frozen=True, slots=True, kw_only=True)
class OverIpc:
    """Servers read weights out of a buffer on the GPU that they share with the trainer. Never run on GPUs.

    allow_pickled_handles: handles come as pickles, which a server reads only where it is told that it may
    (VLLM_ALLOW_INSECURE_SERIALIZATION=1): whoever reaches its port could then run code there. buffer_mib: size of the
    buffer, MiB; the largest tensor must fit.
    """

    allow_pickled_handles: bool
    buffer_mib: int

    def __post_init__(self) -> None:
        if not self.allow_pickled_handles:
            raise ValueError(
                "engine.host.transfer: IPC sends pickled handles, and a server that reads them runs code of whoever "
                "reaches its port; where that is nobody else, set engine.host.transfer.allow_pickled_handles=true"
            )

    @property
    def server_options(self) -> Json:
        return {"weight_transfer_config": '{"backend": "ipc"}', "load_format": "dummy"}

    @property
    def environment(self) -> dict[str, str]:
        return {"VLLM_ALLOW_INSECURE_SERIALIZATION": "1"}

    def open(self, *, devices: Sequence[str]) -> Sender:
        """Raises ValueError unless each server has one GPU, by its number, which this process sees too."""
        if not devices or not all(device.isdigit() for device in devices):
            raise ValueError(
                f"engine.host.transfer: IPC needs engine.host.devices with one number for each server, got {devices}"
            )
        return _Ipc(self, [int(device) for device in devices])


class _Ipc:
    def __init__(self, settings: OverIpc, devices: Sequence[int]) -> None:
        self._settings, self._devices = settings, devices

    def keep(self, directory: Path, parts: Sequence[Part]) -> dict[str, Tensor]:
        return in_memory(parts)

    def give(self, replicas: Sequence[Replica], directory: Path, weights: Mapping[str, Tensor]) -> None:
        """One after the other: each has a buffer on its GPU."""
        for replica, device in zip(replicas, self._devices, strict=True):
            with torch.cuda.device(device):
                self._give(Routes([replica]), weights)

    def _give(self, routes: Routes, weights: Mapping[str, Tensor]) -> None:
        """As vLLM's `IPCTrainerWeightTransferEngine` does, which wants all ranks of the trainer to take part."""
        from vllm.distributed.weight_transfer.packed_tensor import packed_ipc_producer

        routes.init_weight_transfer_engine({"packed": True})
        routes.start_weight_update()
        chunks = packed_ipc_producer(
            iterator=iter(_Source(weights)),
            gpu_uuid=str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid),
            post_iter_func=lambda item: item[1],
            buffer_size_bytes=self._settings.buffer_mib * MIB,
        )
        for chunk in chunks:  # the buffer is filled again when the server has answered
            routes.update_weights(
                {
                    "names": chunk.names,
                    "dtype_names": chunk.dtype_names,
                    "shapes": chunk.shapes,
                    "ipc_handles": chunk.ipc_handle,
                    "tensor_sizes": chunk.tensor_sizes,
                }
            )
        routes.finish_weight_update()
        torch.cuda.ipc_collect()


class _Source:
    """Weights as vLLM's senders read them (`WeightSource`): what they are, then one after the other on the GPU."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        self._weights = weights

    def metadata(self) -> list[ParamMeta]:
        from vllm.distributed.weight_transfer.base import ParamMeta

        return [ParamMeta(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in self._weights.items()]

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in self._weights.items():
            yield name, tensor.cuda()
