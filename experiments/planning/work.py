"""Tokens, operations and hours of a phase: decoding is bound by memory traffic, passes over sequences by arithmetic."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from experiments.planning.architecture import Architecture
from experiments.planning.hardware import Hardware
from experiments.planning.memory import Setting
from rzero.types import Json


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


def decoding(model: Architecture, setting: Setting, hardware: Hardware, *, completions: int) -> Work:
    """One call of all engines: each token step of an engine reads all weights once and each row's cache.

    A call ends with its longest response, so its tail is decoded with few rows. Where rows join a batch they fill
    places as they become free; else they are drawn in waves. A token step takes its least time however few rows are
    left.
    """
    rollouts = setting.rollouts
    limit, mean = rollouts.response_tokens, rollouts.response_tokens * hardware.response_fraction
    context = hardware.prompt_tokens + mean / 2
    tokens = completions * mean
    flops = model.forward_flops(tokens=tokens, scored=tokens, context=context)
    rows = math.ceil(completions / rollouts.engines)
    side_by_side = max(1, rollouts.side_by_side(model, hardware))
    # in every wave some response runs to the limit, while finished rows are taken out
    waves = math.ceil(rows / side_by_side) * limit
    steps = max(limit, rows * mean / side_by_side + limit - mean) if rollouts.refill else waves
    cache = rows * mean * context * model.cache_bytes_per_token * rollouts.weight_bytes / 2
    traffic = steps * model.parameters * rollouts.weight_bytes + cache
    busy = max(
        traffic / rollouts.devices_each / (hardware.bandwidth_gb_s * 1e9),
        flops / rollouts.engines / rollouts.devices_each / (hardware.peak_tflops * 1e12),
    )
    least = steps * (hardware.eager_token_step_ms if rollouts.eager else hardware.token_step_ms) / 1e3
    return Work(tokens=tokens, flops=flops, hours=max(busy / hardware.decoding_utilisation, least) / 3600)


def update(
    model: Architecture,
    setting: Setting,
    hardware: Hardware,
    *,
    completions: int,
    prompts: int,
    passes: int,
    steps: int,
    microbatch_tokens: int,
) -> Work:
    """Forward and backward over every sequence once, plus `passes` more (old, reference); checkpointing adds one.

    prompts: how many copies of prompts it runs over. steps: of the optimiser; each ends when the device with most rows
    does. Float32 hidden states meet the head in float32 or TF32, which are slower than the bf16 of everything else.
    FSDP2 gathers all weights for each pass over a micro-batch, while it computes: the slower of the two counts.
    """
    mean = setting.rollouts.response_tokens * hardware.response_fraction
    tokens = prompts * hardware.prompt_tokens + completions * mean
    context = (hardware.prompt_tokens + mean) / 2
    body = model.forward_flops(tokens=tokens, scored=0, context=context)
    head = model.forward_flops(tokens=0, scored=completions * mean, context=context)
    backward = 1 if setting.lora is not None else 2  # frozen weights need no gradient of their own
    times = passes + 1 + backward + setting.checkpointing
    slow_head = setting.mixed and setting.weight_bytes == 4
    head_tflops = (
        (hardware.tf32_tflops if setting.tf32 else hardware.fp32_tflops) if slow_head else hardware.peak_tflops
    )
    share = _largest_share(completions, setting, steps=steps)
    seconds = times * (body / hardware.peak_tflops + head / head_tflops) / 1e12
    computing = seconds * share / hardware.training_utilisation
    microbatches = steps * math.ceil(tokens * share / steps / microbatch_tokens)
    gathering = microbatches * _gathering(model, setting, hardware, passes=passes)
    return Work(tokens=tokens, flops=times * (body + head), hours=max(computing, gathering) / 3600)


def _largest_share(completions: int, setting: Setting, *, steps: int) -> float:
    """Returns the share of a step's rows that the device with most of them has."""
    rows = completions / steps
    return math.ceil(rows / setting.devices) / rows


def _gathering(model: Architecture, setting: Setting, hardware: Hardware, *, passes: int) -> float:
    """Returns the seconds in which FSDP2 moves the weights of the passes over one micro-batch, and its gradients."""
    if not setting.sharded or setting.devices == 1:
        return 0.0
    gathered = (passes + 2) * model.parameters * setting.weight_bytes  # the backward pass gathers once more
    scattered = setting.trained_parameters(model) * 4
    speed = hardware.link_gb_s if setting.nodes == 1 else hardware.network_gb_s
    return (gathered + scattered) / (speed * 1e9)


def sync(model: Architecture, setting: Setting, hardware: Hardware) -> Work:
    """All weights on their way to vLLM once, in the engine's dtype. The embedded engine copies them on its device."""
    if not setting.rollouts.stays:
        return Work()
    return Work(hours=model.parameters * setting.rollouts.weight_bytes / (hardware.sync_gb_s * 1e9) / 3600)


def evaluation(benchmarks: Json, model: Architecture, setting: Setting, hardware: Hardware) -> Work:
    """One evaluation under a suite's protocol, call by call. Benchmarks of unknown size count as nothing.

    benchmarks: the node of the configuration; `uncounted` names those that are left out.
    """
    protocol, total = benchmarks["protocol"], sync(model, setting, hardware)
    for name in benchmarks["tasks"]:
        questions = hardware.questions.get(name, 0)
        limit = protocol["max_tokens"] or benchmarks["definitions"][name].get("max_tokens", 0)
        rollouts = replace(setting.rollouts, response_tokens=limit)
        for samples in (1, *([protocol["k"]] if name in protocol["sampled"] else [])):
            asked = max(1, benchmarks["completions_per_call"] // samples)
            calls, rest = divmod(questions, asked)
            for times, count in ((calls, asked), (1, rest)):
                if times and count:
                    call = decoding(model, replace(setting, rollouts=rollouts), hardware, completions=count * samples)
                    total += call * times
    return total


def uncounted(benchmarks: Json, hardware: Hardware) -> list[str]:
    """Returns the tasks whose number of questions is not known."""
    return [name for name in benchmarks["tasks"] if name not in hardware.questions]
