"""A whole GRPO step (rollout, reward, update) against TRL's GRPOTrainer, and the share of peak that an update reaches.

All sides train the committed micro model on the same prompts with the same group size, limits, KL and AdamW, each in
its own process on one thread; the parent lets them take steps in turn, so that both see the same machine. Seconds
are CPU seconds. Lengths are drawn, so times are divided by the completion tokens of the step. TRL is installed apart:

    .venv/bin/pip install --no-deps --target .venv-trl trl==1.16.0
"""

from __future__ import annotations

import json
import statistics
import sys

from experiments import PROJECT
from experiments.bench.rollout import measure_peak
from experiments.bench.sides import Side
from experiments.planning import Architecture
from rzero.types import Json

TRL = PROJECT / ".venv-trl"
MODEL = PROJECT / "experiments" / "models" / "micro"
WORKER = "experiments.bench.grpo_worker"
SIDES: dict[str, tuple[str, Json]] = {
    "ours": ("ours", {}),
    "separate": ("ours", {"share_prompts": False}),
    "trl": ("trl", {}),
}
"""Worker and changes to the work of each side. `separate`: ours with a copy of the prompt for every completion."""

WORK: Json = {
    "model": str(MODEL), "system": "Think, then give \\boxed{}.", "questions": "sums", "threads": 1, "lora": None,
    "prompts": 48, "samples": 8, "max_tokens": 160, "warm_up_tokens": 160, "learning_rate": 1e-6,
    "kl_coefficient": 0.01, "clip": 0.2,
    "max_tokens_per_microbatch": 2048, "share_prompts": True, "chunk_tokens": 2048, "matmul_precision": "highest",
    "corrected": False, "checkpointing": False,
    "engine": {
        "max_rows": 512, "threads": 1, "compact_below": 0.85, "prefill_tokens": 16384, "first_capacity": 64,
        "verify_sync": True, "decoder": "auto",
    },
    "trl_rows": 384, "trl_checkpointing": False, "trl_gib": None,
}  # fmt: skip
"""A step, for both sides; what follows `clip` are settings of ours, then of TRL's: rows of a micro-batch, gradient
checkpointing, and a limit to its memory. TRL takes the whole step as one batch, which is its fastest way at this size.
The prompt is that of conf/prompts/micro.yaml."""


def run(*, steps: int = 2) -> Json:
    """Ratios above 1 mean that TRL takes longer (goals: whole step 3, update 1.3) or, for memory, that we take more.

    step_speedup_vs_trl, update_speedup_vs_trl: medians of seconds per completion token; update_speedup_vs_separate: the
    same against our own update with a copy of the prompt for every completion. peak_rss_ratio_vs_trl: ours by
    TRL's. mfu: operations of the update (one forward and backward, one reference pass; each prompt once, no padding) by
    what one thread's best matrix product does in that time. update_profile: shares of the update's CPU time by
    operation.
    """
    require_trl()
    sides = {name: start(worker, WORK | changes) for name, (worker, changes) in SIDES.items()}
    try:
        for side in sides.values():
            side.step("warm up")
        taken: dict[str, list[Json]] = {name: [] for name in sides}
        for _ in range(steps):
            for name, side in sides.items():
                taken[name].append(side.step("go"))
        rss = {name: side.step("rss")["peak_rss_mib"] for name, side in sides.items()}
        profile = sides["ours"].step("profile")["profile"]  # after the memory: recording takes some
    finally:
        for side in sides.values():
            side.close()
    peak = measure_peak()
    per_token = {
        name: {part: statistics.median(step[part] / step["tokens"] for step in steps_) for part in ("step", "update")}
        for name, steps_ in taken.items()
    }
    return {
        "step_speedup_vs_trl": per_token["trl"]["step"] / per_token["ours"]["step"],
        "update_speedup_vs_trl": per_token["trl"]["update"] / per_token["ours"]["update"],
        "update_speedup_vs_separate": per_token["separate"]["update"] / per_token["ours"]["update"],
        "peak_rss_ratio_vs_trl": rss["ours"] / rss["trl"],
        "mfu": statistics.median(_flops(step) / step["update"] for step in taken["ours"]) / peak,
        "peak_gflops": peak / 1e9,
        **{f"{name}_{part}_us_per_token": 1e6 * per_token[name][part] for name in sides for part in ("step", "update")},
        **{f"{name}_mean_length": statistics.mean(s["tokens"] for s in taken[name]) / _rows() for name in sides},
        **{f"{name}_peak_rss_mib": rss[name] for name in sides},
        "update_profile": profile,
    }


def require_trl() -> None:
    """Raises ImportError, with the command that installs it, where TRL is not there."""
    if not (TRL / "trl").is_dir():
        install = f"{sys.executable} -m pip install --no-deps --target {TRL} trl==1.16.0"
        raise ImportError(f"bench grpo compares with TRL, which is not installed; run: {install}")


def start(side: str, work: Json) -> Side:
    """Starts a side, `ours` or `trl`, with the settings of a step."""
    return Side(WORKER, side, json.dumps(work), threads=work["threads"], paths=[TRL] if side == "trl" else [])


def _rows() -> int:
    return int(WORK["prompts"] * WORK["samples"])


def _flops(step: Json) -> float:
    """Operations of one update: forward, twice that backward, and the reference's forward pass."""
    model = Architecture.of({"path_or_id": str(MODEL)})
    context = step["mean_sequence"] / 2
    return 4 * model.forward_flops(tokens=step["model_tokens"], scored=step["tokens"], context=context)
