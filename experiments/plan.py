"""Plan a run: parameters, memory per device, tokens, operations and hours, without loading any weights.

    python -m experiments.plan experiment=paper trainer.devices=8
    python -m experiments.plan experiment=paper policy=qwen3_8b_base_lora hardware=a100 --json

Takes the same overrides as experiments.run, and `hardware=` (a file of conf/hardware: the device and what is assumed).
Evaluation is left out: it depends on data sets that need not be here.

Exit codes: 0 it fits; 1 it does not, and the plan says what to change; 2 a wrong value.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from experiments.command_line import DONE, UNMET, add_overrides, command_parser, exit_code, expand_policy
from experiments.compose import compose
from experiments.planning import Architecture, Hardware, Memory, Setting, Work, memory_of, work_of
from rzero.types import Json


def main(arguments: Sequence[str] | None = None) -> int:
    parser = command_parser("experiments.plan", __doc__)
    add_overrides(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object: sizes in bytes, times in hours")
    options = parser.parse_intermixed_args(arguments)

    def work() -> int:
        figures = plan(options.overrides, config_dir=options.config_dir)
        print(json.dumps(figures) if options.json else text_of(figures))
        return DONE if figures["fits"] else UNMET

    return exit_code(work)


def plan(overrides: Sequence[str], *, config_dir: Path | None = None) -> Json:
    """Return the figures of the run that `overrides` compose; sizes in bytes, times in hours."""
    chosen = [f"+{text}" if text.startswith("hardware") else text for text in overrides]
    if not any(text.startswith("+hardware=") for text in chosen):
        chosen.insert(0, "+hardware=h100")
    composed = compose(*expand_policy(chosen, config_dir=config_dir), config_dir=config_dir, groups=("hardware",))
    # the devices of the plan, whichever this machine has
    OmegaConf.register_new_resolver("gpus", lambda count: [str(number) for number in range(count)], replace=True)
    hardware: Hardware = instantiate(composed.hardware)
    cfg = resolved(composed)
    model, setting = Architecture.of(cfg["policy"]), Setting.of(cfg)
    phases = {
        "challenger": _role(cfg["challenger"], model, setting, hardware, answers=cfg["challenger"]["polling"]["votes"]),
        "questions": _questions(cfg["curriculum"], model, setting, hardware),
        "solver": _role(cfg["solver"], model, setting, hardware, answers=0),
    }
    hours = cfg["iterations"] * sum(phase["hours"] for phase in phases.values())
    return {
        "experiment": cfg["name"],
        "hardware": asdict(hardware),
        "devices": setting.devices,
        "iterations": cfg["iterations"],
        "parameters": model.parameters,
        "trained_parameters": setting.trained_parameters(model),
        "phases": phases,
        "hours": hours,
        "device_hours": hours * setting.devices,
        "fits": all(phase["fits"] for phase in phases.values()),
        "advice": list(dict.fromkeys(advice for phase in phases.values() for advice in phase["advice"])),
    }


def resolved(composed: DictConfig) -> Json:
    """Return the parts of the configuration that say something about size, with interpolations resolved."""
    parts = ("policy", "engine", "trainer", "challenger", "curriculum", "solver")
    return {
        **{part: OmegaConf.to_container(composed[part], resolve=True) for part in parts},
        **{name: composed[name] for name in ("name", "iterations", "response_tokens")},
    }


def _role(phase: Json, model: Architecture, setting: Setting, hardware: Hardware, *, answers: int) -> Json:
    """Plan a training phase. Each completion is a question that `answers` completions of the Solver answer."""
    settings, loss = phase["settings"], phase["loss"]
    needs_reference = loss["kl_coefficient"] > 0
    memory = memory_of(
        model,
        setting,
        hardware,
        microbatch_tokens=settings["max_tokens_per_microbatch"],
        chunk_tokens=settings["chunk_tokens"],
        needs_reference=needs_reference,
    )
    learned = settings["prompts_per_step"] * settings["samples_per_prompt"]
    passes = (settings["updates_per_rollout"] > 1) + needs_reference
    step = work_of(
        model,
        setting,
        hardware,
        drawn=learned * (1 + answers),
        learned=learned,
        prompts=settings["prompts_per_step"] if settings["share_prompts"] else learned,
        passes=passes,
    )
    advice = _advice(memory, model, setting, hardware, microbatch_tokens=settings["max_tokens_per_microbatch"])
    return _phase(step * settings["steps"], memory=memory, advice=advice)


def _questions(phase: Json, model: Architecture, setting: Setting, hardware: Hardware) -> Json:
    """Plan candidates and the Solver's answers to them: rollouts only."""
    memory = Memory(
        weights=0, reference=0, gradients=0, optimiser=0, activations=0,
        engines=setting.rollouts.weights(model),
        kv_cache=setting.rollouts.cache(model, hardware),
        cache_stays=setting.rollouts.stays,
    )  # fmt: skip
    work = work_of(model, setting, hardware, drawn=phase["candidates"] * (1 + phase["votes"]))
    advice = _advice(memory, model, setting, hardware, microbatch_tokens=0)
    return _phase(work, memory=memory, advice=advice)


def _phase(work: Work, *, memory: Memory, advice: Sequence[str]) -> Json:
    kinds = {name: size for name, size in asdict(memory).items() if name != "cache_stays"}
    return {
        "memory": {**kinds, "peak": memory.peak},
        "tokens": work.tokens,
        "flops": work.flops,
        "hours": work.hours,
        "fits": not advice,
        "advice": list(advice),
    }


def _advice(
    memory: Memory, model: Architecture, setting: Setting, hardware: Hardware, *, microbatch_tokens: int
) -> list[str]:
    """Say what to change, for each thing that does not fit; numbers where a number would do."""
    room = hardware.usable_bytes - memory.standing
    if room < 0:
        return [_make_room(memory, setting, short=-room)]
    advice, rows = [], setting.rollouts.rows
    if not setting.rollouts.side_by_side(model, hardware):
        advice.append("vLLM's KV cache, which does not hold one row: a larger engine.host.gpu_memory_utilization")
    if memory.kv_cache > room and not memory.cache_stays:
        fitting = int(rows * room / memory.kv_cache)
        advice.append(f"the KV cache: engine.max_rows={fitting} (now {rows}), or fewer response_tokens")
    if memory.activations > room:
        tokens = int(microbatch_tokens * room / memory.activations)
        fewer = f"settings.max_tokens_per_microbatch of about {tokens} (now {microbatch_tokens})"
        advice.append(
            f"activations: {fewer}"
            if setting.checkpointing
            else f"activations: policy.gradient_checkpointing=true, or {fewer}"
        )
    return advice


def _make_room(memory: Memory, setting: Setting, *, short: float) -> str:
    ways = []
    if setting.rollouts.weight_bytes == 4:
        ways.append("engine.dtype=bfloat16 (rollouts from rounded weights)")
    if setting.rollouts.vllm_share is not None and setting.rollouts.copies:
        ways.append(f"engine.host.gpu_memory_utilization below {setting.rollouts.vllm_share}")
    if not setting.sharded:
        ways.append("trainer=fsdp with several devices (weights, gradients and optimiser are then shared out)")
    elif memory.engines < memory.standing - memory.engines:
        ways.append(f"more devices than trainer.devices={setting.devices}")
    if setting.lora is None:
        ways.append("a *_lora policy (no gradients, optimiser or reference for frozen weights)")
    elif setting.weight_bytes == 4:
        ways.append("policy.dtype=bfloat16 (the weights are frozen, adapters matter)")
    return f"{short / 2**30:.0f} GiB too much before any work: " + "; ".join(ways or ["a larger device"])


def text_of(figures: Json) -> str:
    """Return the plan as text for people."""
    hardware = figures["hardware"]
    lines = [
        f"{figures['experiment']} on {figures['devices']} x {hardware['name']}, {figures['iterations']} iterations",
        f"parameters {figures['parameters'] / 1e9:.2f} G, trained {figures['trained_parameters'] / 1e9:.3f} G",
        f"assumed: responses {hardware['response_fraction']:.0%} of the limit on average, "
        f"{hardware['training_utilisation']:.0%} of {hardware['peak_tflops']} Tflop/s in passes, "
        f"{hardware['decoding_utilisation']:.0%} of {hardware['bandwidth_gb_s']} GB/s in rollouts",
    ]
    for name, phase in figures["phases"].items():
        lines += [
            "",
            f"{name}: {phase['tokens'] / 1e6:.1f} M tokens, {phase['flops']:.2e} operations, {phase['hours']:.2f} h",
        ]
        lines += [f"  {kind:<12} {size / 2**30:8.1f} GiB" for kind, size in phase["memory"].items() if size]
        lines.append(f"  {'fits' if phase['fits'] else 'DOES NOT FIT'} ({hardware['memory_gib']} GiB per device)")
        lines += [f"    change {advice}" for advice in phase["advice"]]
    lines += [
        "",
        f"whole run, evaluation not counted: {figures['hours']:.1f} h ({figures['device_hours']:.0f} device hours)",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
