"""A device, with the assumptions about how well it is used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """One device of `conf/hardware/`. peak_tflops: dense bf16. The assumptions are explained in `_assumed.yaml`."""

    name: str
    peak_tflops: float
    tf32_tflops: float
    fp32_tflops: float
    bandwidth_gb_s: float
    memory_gib: float
    training_utilisation: float
    decoding_utilisation: float
    token_step_ms: float
    eager_token_step_ms: float
    sync_gb_s: float
    link_gb_s: float
    network_gb_s: float
    usable_memory: float
    context_gib: float
    prompt_tokens: int
    response_fraction: float
    questions: Mapping[str, int]

    @property
    def memory_bytes(self) -> float:
        return self.memory_gib * 2**30

    @property
    def usable_bytes(self) -> float:
        return self.memory_bytes * self.usable_memory
