"""The demands of rollouts: copies of the weights and a cache on the devices that train, and rows that run at once."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from experiments.planning.architecture import Architecture
from experiments.planning.hardware import Hardware
from rzero.types import Json

BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2, "int8": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollouts:
    """An engine's demands.

    engines: how many decode. devices_each: over which each splits weights and cache (tensor parallelism). copies: of
    the weights on each training device, before that; the embedded engine has one for each role, one vLLM serves both,
    and servers on devices of their own need none here (what they need there is not planned). rows: at most so many side
    by side in an engine. cache_bytes: of a number in its cache; None: weight_bytes. refill: rows that wait join a
    batch. vllm_share, vllm_cache_gib: what vLLM takes of a device's memory for weights and cache together, or for the
    cache; it keeps them while the policy trains. eager: no CUDA graphs.
    """

    engines: int
    copies: int
    weight_bytes: int
    rows: int
    response_tokens: int
    cache_bytes: int | None = None
    refill: bool = False
    devices_each: int = 1
    vllm_share: float | None = None
    vllm_cache_gib: float | None = None
    eager: bool = True

    @classmethod
    def of(cls, cfg: Json, *, policy_bytes: int) -> Rollouts:
        """From a resolved run configuration."""
        engine, training = cfg["engine"], cfg["trainer"]["devices"] * cfg["trainer"].get("num_nodes", 1)
        common: Json = {
            "weight_bytes": policy_bytes if engine["dtype"] in (None, "auto") else BYTES[engine["dtype"]],
            "rows": engine["max_rows"],
            "refill": engine.get("refill", True),  # vLLM, which has no choice, does
            "response_tokens": cfg["response_tokens"],
        }
        host = engine.get("host")
        if host is None and engine["dtype"] == "int8":  # one rounded base below both roles' adapters
            copies = 2 if cfg["policy"]["lora"] is None else 1
            return cls(engines=training, copies=copies, cache_bytes=policy_bytes, **common)
        if host is None:
            return cls(engines=training, copies=2, **common)
        vllm = {
            "vllm_share": host["gpu_memory_utilization"],
            "vllm_cache_gib": host["kv_cache_gib"],
            "eager": host["enforce_eager"],
        }
        if "replicas" not in host:
            return cls(engines=training, copies=1, **vllm, **common)
        vllm["devices_each"] = _tensor_parallel(host["arguments"])
        if host["urls"]:
            return cls(engines=len(host["urls"]), copies=0, **vllm, **common)
        serving = set(",".join(map(str, host["devices"])).split(",")) - {""}
        elsewhere = bool(serving) and serving.isdisjoint(map(str, range(cfg["trainer"]["devices"])))
        # servers that a run starts are on its first node
        return cls(engines=host["replicas"], copies=0 if elsewhere else 1, **vllm, **common)

    @property
    def stays(self) -> bool:
        """Whether the cache is there during updates too."""
        return self.vllm_share is not None

    @property
    def devices_elsewhere(self) -> int:
        """How many devices decode and do not train."""
        return 0 if self.copies else self.engines * self.devices_each

    def weights(self, model: Architecture) -> float:
        """Bytes of weights on a training device."""
        return self.copies * model.parameters * self.weight_bytes / self.devices_each

    def cache(self, model: Architecture, hardware: Hardware) -> float:
        """Bytes of the KV cache on a training device."""
        if self.vllm_share is None:
            return self.rows * self._row(model, tokens=hardware.prompt_tokens + self.response_tokens)
        return self._vllm_cache(model, hardware) if self.copies else 0.0

    def side_by_side(self, model: Architecture, hardware: Hardware) -> int:
        """Rows that an engine decodes at once: vLLM takes as many of average length as its cache holds."""
        if self.vllm_share is None:
            return self.rows
        average = hardware.prompt_tokens + self.response_tokens * hardware.response_fraction
        cache = self._vllm_cache(model, hardware) * self.devices_each
        return min(self.rows, int(cache / self._row(model, tokens=average)))

    def _vllm_cache(self, model: Architecture, hardware: Hardware) -> float:
        if self.vllm_cache_gib is not None:
            return self.vllm_cache_gib * 2**30
        assert self.vllm_share is not None
        weights = model.parameters * self.weight_bytes / self.devices_each
        return max(0.0, self.vllm_share * hardware.memory_bytes - weights)

    def _row(self, model: Architecture, *, tokens: float) -> float:
        return tokens * model.cache_bytes_per_token * (self.cache_bytes or self.weight_bytes) / 2


def _tensor_parallel(arguments: Sequence[str]) -> int:
    """Returns over how many devices those arguments of `vllm serve` have it split a model."""
    words = " ".join(map(str, arguments)).replace("=", " ").split()
    flags = ("--tensor-parallel-size", "-tp")
    return next((int(size) for flag, size in itertools.pairwise(words) if flag in flags), 1)
