"""Plan a run: parameters, memory per device, tokens, operations and hours, without loading any weights.

    python -m experiments.plan experiment=paper trainer.devices=8
    python -m experiments.plan experiment=paper policy=qwen3_8b_base trainer.devices=8 --simulate
    python -m experiments.plan experiment=paper_lora_1gpu policy=qwen3_8b_base_lora hardware=a100 --json

Takes the same overrides as experiments.run, and `hardware=` (a file of conf/hardware: the device and what is assumed).
Memory is a formula; `--simulate` also runs shard, update, sync and save with tensors that have no storage, and what it
counts then decides (FSDP2, or one device; half a minute). Hours include evaluation, syncs and the tails of calls, and
are given where everything fits.

Exit codes: 0 it fits; 1 it does not, and the plan says what to change; 2 a wrong value.
"""

from __future__ import annotations

import functools
import json
import operator
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from experiments.command_line import DONE, UNMET, add_overrides, check, command_parser, exit_code, expand_policy
from experiments.compose import compose
from experiments.planning import (
    Architecture,
    Hardware,
    Memory,
    Setting,
    Work,
    decoding,
    evaluation,
    memory_of,
    sync,
    uncounted,
    update,
)
from rzero.types import Json


def main(arguments: Sequence[str] | None = None) -> int:
    parser = command_parser("experiments.plan", __doc__)
    add_overrides(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object: sizes in bytes, times in hours")
    parser.add_argument("--simulate", action="store_true", help="count the trainer's tensors by running its code")
    options = parser.parse_intermixed_args(arguments)

    def work() -> int:
        figures = plan(options.overrides, config_dir=options.config_dir, simulate=options.simulate)
        print(json.dumps(figures) if options.json else text_of(figures))
        return DONE if figures["fits"] else UNMET

    return exit_code(work)


def plan(overrides: Sequence[str], *, config_dir: Path | None = None, simulate: bool = False) -> Json:
    """Return the figures of the run that `overrides` compose; sizes in bytes, times in hours."""
    chosen = [f"+{text}" if text.startswith("hardware") else text for text in overrides]
    if not any(text.startswith("+hardware=") for text in chosen):
        chosen.insert(0, "+hardware=h100")
    composed = compose(*expand_policy(chosen, config_dir=config_dir), config_dir=config_dir, groups=("hardware",))
    check(composed)
    # the devices of the plan, whichever this machine has
    OmegaConf.register_new_resolver("gpus", lambda count: [str(number) for number in range(count)], replace=True)
    hardware: Hardware = instantiate(composed.hardware, _convert_="all")
    cfg = resolved(composed)
    model, setting = Architecture.of(cfg["policy"]), Setting.of(cfg)
    peaks = _simulated(composed, cfg, setting, hardware) if simulate else {}
    phases = phases_of(cfg, model, setting, hardware, peaks=peaks)
    fits, hours = all(phase["fits"] for phase in phases.values()), None
    evaluated = evaluation(cfg["benchmarks"], model, setting, hardware) if fits else None
    if evaluated is not None:
        training = cfg["iterations"] * sum(phase["hours"] for phase in phases.values())
        hours = training + (cfg["iterations"] + 1) * evaluated.hours  # the base model too
    return {
        "experiment": cfg["name"],
        "hardware": asdict(hardware),
        "devices": setting.devices,
        "serving_devices": setting.rollouts.devices_elsewhere,
        "iterations": cfg["iterations"],
        "parameters": model.parameters,
        "trained_parameters": setting.trained_parameters(model),
        "phases": phases,
        "evaluation": {"hours": evaluated and evaluated.hours, "not_counted": uncounted(cfg["benchmarks"], hardware)},
        "hours": hours,
        "device_hours": hours and hours * (setting.devices + setting.rollouts.devices_elsewhere),
        "fits": fits,
        "advice": list(dict.fromkeys(advice for phase in phases.values() for advice in phase["advice"])),
        "room_for_vllm": _room_for_vllm(phases, setting, hardware),
    }


def phases_of(
    cfg: Json, model: Architecture, setting: Setting, hardware: Hardware, *,
    peaks: Mapping[str, dict[str, float]] = {},
) -> dict[str, Json]:  # fmt: skip
    """Return the figures of one iteration's phases. peaks: simulated ones, by role."""
    return {
        "challenger": _role(
            cfg["challenger"], model, setting, hardware,
            answers=cfg["challenger"]["polling"]["votes"], peaks=peaks.get("challenger"),
        ),
        "questions": _questions(cfg["curriculum"], model, setting, hardware),
        "solver": _role(cfg["solver"], model, setting, hardware, answers=0, peaks=peaks.get("solver")),
    }  # fmt: skip


def resolved(composed: DictConfig) -> Json:
    """Return the parts of the configuration that say something about size, with interpolations resolved."""
    parts = ("policy", "engine", "trainer", "challenger", "curriculum", "solver")
    benchmarks = {
        name: OmegaConf.to_container(composed.benchmarks[name], resolve=True)
        for name in ("tasks", "definitions", "protocol")
    }
    return {
        **{part: OmegaConf.to_container(composed[part], resolve=True) for part in parts},
        **{name: composed[name] for name in ("name", "iterations", "response_tokens", "matmul_precision")},
        "benchmarks": {**benchmarks, "completions_per_call": composed.benchmarks.completions_per_call},
    }


def _simulated(composed: DictConfig, cfg: Json, setting: Setting, hardware: Hardware) -> dict[str, dict[str, float]]:
    """Return the simulated peaks of both roles by moment. Raises ValueError for what cannot be simulated."""
    from experiments.planning.simulation import Case, simulated_peaks  # imports torch and transformers

    if cfg["policy"].get("architecture") is None:
        raise ValueError("--simulate needs the policy's `architecture` (conf/policy), as experiments.dry_run does")
    if setting.devices > 1 and not setting.sharded:
        raise ValueError("--simulate knows FSDP2 (trainer=fsdp) and one device (trainer=gpu), not DDP")
    done: dict[str, dict[str, float]] = {}
    peaks = {}
    for role in ("challenger", "solver"):
        settings = instantiate(composed[role].settings, _convert_="all")
        length = hardware.prompt_tokens + int(setting.rollouts.response_tokens * hardware.response_fraction)
        case = Case(
            policy=cfg["policy"],
            devices=setting.devices,
            mixed=setting.mixed,
            settings=settings,
            loss=instantiate(composed[role].loss),
            optimizer=instantiate(composed[role].optimizer),
            prompt=hardware.prompt_tokens,
            length=length,
        )
        alike = repr(
            (cfg[role]["loss"], settings.max_tokens_per_microbatch, settings.chunk_tokens, settings.share_prompts)
        )
        if alike not in done:
            done[alike] = simulated_peaks(case)
        peaks[role] = done[alike]
    return peaks


def _role(
    phase: Json, model: Architecture, setting: Setting, hardware: Hardware, *, answers: int,
    peaks: dict[str, float] | None,
) -> Json:  # fmt: skip
    """Plan a training phase. Each completion is a question that `answers` completions of the Solver answer.

    peaks: of the trainer's tensors by moment, where they have been simulated; they then take the formula's place.
    """
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
    drawn, weights = decoding(model, setting, hardware, completions=learned), sync(model, setting, hardware)
    if answers:  # the frozen Solver takes its turn
        drawn, weights = drawn + decoding(model, setting, hardware, completions=learned * answers), weights * 2
    updated = update(
        model,
        setting,
        hardware,
        completions=learned,
        prompts=settings["prompts_per_step"] if settings["share_prompts"] else learned,
        passes=passes,
        steps=settings["updates_per_rollout"],
        microbatch_tokens=settings["max_tokens_per_microbatch"],
    )
    planned = memory.trainer
    if peaks is not None:
        memory = memory.with_trainer(max(peaks.values()))
    advice = _advice(memory, model, setting, hardware, microbatch_tokens=settings["max_tokens_per_microbatch"])
    parts = {"rollouts": drawn, "weights": weights, "updates": updated}
    figures = _phase({name: work * settings["steps"] for name, work in parts.items()}, memory=memory, advice=advice)
    if peaks is not None:
        figures["simulated"] = {"planned": planned, "peak": max(peaks.values()), "moments": peaks}
    return figures


def _questions(phase: Json, model: Architecture, setting: Setting, hardware: Hardware) -> Json:
    """Plan candidates and the Solver's answers to them: rollouts only."""
    memory = Memory(
        weights=0, reference=0, gradients=0, optimiser=0, gathered=0, activations=0, synced=0,
        engines=setting.rollouts.weights(model),
        kv_cache=setting.rollouts.cache(model, hardware),
        contexts=hardware.context_gib * 2**30,
        cache_stays=setting.rollouts.stays,
    )  # fmt: skip
    asked, answered = (
        decoding(model, setting, hardware, completions=completions)
        for completions in (phase["candidates"], phase["candidates"] * phase["votes"])
    )
    weights = sync(model, setting, hardware) * 2  # the Challenger's, then the Solver's
    advice = _advice(memory, model, setting, hardware, microbatch_tokens=0)
    return _phase({"rollouts": asked + answered, "weights": weights}, memory=memory, advice=advice)


def _phase(parts: Mapping[str, Work], *, memory: Memory, advice: Sequence[str]) -> Json:
    """The figures of a phase. Hours of what does not fit would be of a run that nobody can start: None."""
    work = functools.reduce(operator.add, parts.values())
    kinds = {name: size for name, size in asdict(memory).items() if name != "cache_stays"}
    return {
        "memory": {**kinds, "trainer": memory.trainer, "peak": memory.peak},
        "tokens": work.tokens,
        "flops": work.flops,
        "hours": None if advice else work.hours,
        "hours_of": None if advice else {name: part.hours for name, part in parts.items()},
        "fits": not advice,
        "advice": list(advice),
    }


def _room_for_vllm(phases: Json, setting: Setting, hardware: Hardware) -> float | None:
    """Return the largest engine.host.gpu_memory_utilization (hundredths) that fits; None where it has no meaning."""
    if (
        setting.rollouts.vllm_share is None
        or setting.rollouts.vllm_cache_gib is not None
        or not setting.rollouts.copies
    ):
        return None
    trainer = max(phase["memory"]["trainer"] for phase in phases.values())
    room = hardware.usable_bytes - trainer - hardware.context_gib * 2**30
    return max(0, int(100 * room / hardware.memory_bytes)) / 100


def _advice(
    memory: Memory, model: Architecture, setting: Setting, hardware: Hardware, *, microbatch_tokens: int
) -> list[str]:
    """Say what to change, for each thing that does not fit; numbers where a number would do."""
    room = hardware.usable_bytes - memory.standing
    if room < 0:
        return [_make_room(memory, setting, short=-room)]
    advice, rows = [], setting.rollouts.rows
    if not setting.rollouts.side_by_side(model, hardware):
        advice.append(
            "vLLM's KV cache, which does not hold one row: a larger engine.host.gpu_memory_utilization, or servers "
            "over several GPUs each (--tensor-parallel-size in engine.host.arguments)"
        )
    if memory.kv_cache > room and not memory.cache_stays:
        fitting = int(rows * room / memory.kv_cache)
        advice.append(f"the KV cache: engine.max_rows={fitting} (now {rows}), or fewer response_tokens")
    if memory.peak > hardware.usable_bytes and memory.gathered + memory.activations > room:
        tokens = int(microbatch_tokens * (room - memory.gathered) / memory.activations)
        if tokens < _longest_row(setting, hardware):  # no micro-batch of one row would fit
            advice.append(_make_room(memory, setting, short=memory.gathered + memory.activations - room))
        else:
            fewer = f"settings.max_tokens_per_microbatch of about {tokens} (now {microbatch_tokens})"
            checkpoint = "" if setting.checkpointing else "policy.gradient_checkpointing=true, or "
            advice.append(f"activations: {checkpoint}{fewer}")
    return advice


def _longest_row(setting: Setting, hardware: Hardware) -> int:
    """Return the tokens of the longest row of a micro-batch."""
    return hardware.prompt_tokens + setting.rollouts.response_tokens


def _make_room(memory: Memory, setting: Setting, *, short: float) -> str:
    """Say how to make room for what an update cannot do without."""
    ways = []
    if setting.rollouts.weight_bytes == 4:
        ways.append("engine.dtype=bfloat16 (rollouts from rounded weights)")
    if setting.rollouts.vllm_share is not None and setting.rollouts.copies and memory.kv_cache:
        ways.append(f"engine.host.gpu_memory_utilization below {setting.rollouts.vllm_share}")
    if not setting.sharded:
        ways.append("trainer=fsdp with several devices (weights, gradients and optimiser are then shared out)")
    else:
        ways.append(f"more devices than trainer.devices={setting.devices}")
    if setting.lora is None:
        ways.append("a *_lora policy (no gradients, optimiser or reference for frozen weights)")
    elif setting.weight_bytes == 4:
        ways.append("policy.dtype=bfloat16 (the weights are frozen, adapters matter)")
    return f"{short / 2**30:.1f} GiB too much with the smallest micro-batch: " + "; ".join(ways or ["a larger device"])


def text_of(figures: Json) -> str:
    """Return the plan as text for people."""
    hardware, serving = figures["hardware"], figures["serving_devices"]
    lines = [
        f"{figures['experiment']} on {figures['devices']} x {hardware['name']}"
        f"{f' and {serving} that serve' if serving else ''}, {figures['iterations']} iterations",
        f"parameters {figures['parameters'] / 1e9:.2f} G, trained {figures['trained_parameters'] / 1e9:.3f} G",
        f"assumed: responses {hardware['response_fraction']:.0%} of the limit on average, "
        f"{hardware['training_utilisation']:.0%} of {hardware['peak_tflops']:.4g} Tflop/s in passes, "
        f"{hardware['decoding_utilisation']:.0%} of {hardware['bandwidth_gb_s']:.4g} GB/s in rollouts",
    ]
    for name, phase in figures["phases"].items():
        lines += ["", f"{name}: {phase['tokens'] / 1e6:.1f} M tokens, {phase['flops']:.2e} operations{_hours(phase)}"]
        lines += [f"  {kind:<12} {size / 2**30:8.1f} GiB" for kind, size in phase["memory"].items() if size]
        if "simulated" in phase:
            lines.append(_simulated_text(phase["simulated"]))
        lines.append(f"  {'fits' if phase['fits'] else 'DOES NOT FIT'} ({hardware['memory_gib']:.4g} GiB per device)")
        lines += [f"    change {advice}" for advice in phase["advice"]]
    if figures["room_for_vllm"] is not None:
        lines += ["", f"engine.host.gpu_memory_utilization: room for {figures['room_for_vllm']:.2f}"]
    evaluated = figures["evaluation"]
    left_out = f"; sizes not known: {', '.join(evaluated['not_counted'])}" if evaluated["not_counted"] else ""
    if figures["fits"]:
        lines += [
            "",
            f"evaluation: {evaluated['hours']:.2f} h, {figures['iterations'] + 1} times{left_out}",
            f"whole run: {figures['hours']:.1f} h ({figures['device_hours']:.0f} device hours)",
        ]
    return "\n".join(lines)


def _hours(phase: Json) -> str:
    if phase["hours"] is None:
        return ""
    parts = ", ".join(f"{name} {hours:.2f}" for name, hours in phase["hours_of"].items())
    return f", {phase['hours']:.2f} h ({parts})"


def _simulated_text(simulated: Json) -> str:
    moment = max(simulated["moments"], key=simulated["moments"].get)
    peak, planned = simulated["peak"], simulated["planned"]
    return (
        f"  trainer's tensors: simulated {peak / 2**30:.1f} GiB ({moment}), by formula {planned / 2**30:.1f} GiB "
        f"({planned / peak - 1:+.0%})"
    )


if __name__ == "__main__":
    sys.exit(main())
