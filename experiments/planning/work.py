"""Tokens, operations and hours of a phase: decoding is bound by memory traffic, passes over sequences by arithmetic."""

from __future__ import annotations

import math
from dataclasses import dataclass

from experiments.planning.architecture import Architecture
from experiments.planning.hardware import Hardware
from experiments.planning.memory import Setting


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Totals over all devices; hours are wall time with the devices working side by side."""

    tokens: float = 0.0
    flops: float = 0.0
    hours: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(tokens=self.tokens + other.tokens, flops=self.flops + other.flops, hours=self.hours + other.hours)

    def __mul__(self, times: int) -> Work:
        return Work(tokens=self.tokens * times, flops=self.flops * times, hours=self.hours * times)


def work_of(
    model: Architecture,
    setting: Setting,
    hardware: Hardware,
    *,
    drawn: int,
    learned: int = 0,
    prompts: int = 0,
    passes: int = 0,
) -> Work:
    """One step: `drawn` completions, `learned` of them updated on after `passes` more passes (old, reference).

    `prompts`: how many copies of prompts an update runs over.
    """
    work = decoding(model, setting, hardware, completions=drawn)
    if not learned:
        return work
    return work + update(model, setting, hardware, completions=learned, prompts=prompts, passes=passes)


def decoding(model: Architecture, setting: Setting, hardware: Hardware, *, completions: int) -> Work:
    """Each token step reads all weights once and each row's cache, in waves of rows on every device that decodes."""
    rollouts = setting.rollouts
    mean = rollouts.response_tokens * hardware.response_fraction
    context = hardware.prompt_tokens + mean / 2
    tokens = completions * mean
    flops = model.forward_flops(tokens=tokens, scored=tokens, context=context)
    rows = math.ceil(completions / rollouts.devices)
    # in every wave some response runs to the limit, while finished rows are taken out
    steps = math.ceil(rows / max(1, rollouts.side_by_side(model, hardware))) * rollouts.response_tokens
    cache = rows * mean * context * model.cache_bytes_per_token * rollouts.weight_bytes / 2
    traffic = steps * model.parameters * rollouts.weight_bytes + cache
    seconds = max(
        traffic / (hardware.bandwidth_gb_s * 1e9),
        flops / rollouts.devices / (hardware.peak_tflops * 1e12),
    )
    return Work(tokens=tokens, flops=flops, hours=seconds / hardware.decoding_utilisation / 3600)


def update(
    model: Architecture, setting: Setting, hardware: Hardware, *, completions: int, prompts: int, passes: int
) -> Work:
    """Forward and backward over every sequence once, plus the extra passes; checkpointing adds a forward pass."""
    mean = setting.rollouts.response_tokens * hardware.response_fraction
    tokens = prompts * hardware.prompt_tokens + completions * mean
    context = (hardware.prompt_tokens + mean) / 2
    forward = model.forward_flops(tokens=tokens, scored=completions * mean, context=context)
    backward = 1 if setting.lora is not None else 2  # frozen weights need no gradient of their own
    flops = forward * (passes + 1 + backward + setting.checkpointing)
    seconds = flops / setting.devices / (hardware.peak_tflops * 1e12 * hardware.training_utilisation)
    return Work(tokens=tokens, flops=flops, hours=seconds / 3600)
