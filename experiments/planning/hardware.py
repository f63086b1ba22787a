"""A device, with the assumptions about how well it is used."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """One device of `conf/hardware/`. Peak: dense bf16 operations. The assumptions are explained in `_assumed.yaml`."""

    name: str
    peak_tflops: float
    bandwidth_gb_s: float
    memory_gib: float
    training_utilisation: float
    decoding_utilisation: float
    usable_memory: float
    prompt_tokens: int
    response_fraction: float

    @property
    def memory_bytes(self) -> float:
        return self.memory_gib * 2**30

    @property
    def usable_bytes(self) -> float:
        return self.memory_bytes * self.usable_memory
