"""Rollouts of a real language model: the embedded engine in int8 and float32 against transformers and vLLM's CPU build.

All sides draw the same number of tokens behind the same prompts, in turn, on two threads and wall time. vLLM's sides
have a process each and weights without meaning, on which its speed does not depend.
"""

from __future__ import annotations

import json
import statistics
from contextlib import ExitStack

from experiments.bench import subject
from experiments.bench.rollout_vllm import why_absent
from experiments.bench.sides import Side, under_way
from rzero.types import Json

WORKER = "experiments.bench.rollout_worker"
TORCH = ("int8", "float32", "generate")
VLLM = ("float32", "bfloat16", "w8a8")
SAMPLES = 8


def run(model: str, *, rows: int = 64, repeats: int = 3, threads: int = 2, small: bool = False) -> Json:
    """Ratios of tokens per second, medians (goals with VNNI: vs_vllm 3, vs_generate 6; never below float32).

    vs_vllm: int8 against the better of vLLM's float32 and bfloat16; vs_vllm_w8a8: against its own int8. int8_mfu: share
    of the measured int8 peak of these threads that is useful arithmetic. small: a few tokens, to see that it runs.
    """
    cfg = subject.composed(model)
    settings: Json = {
        "model": subject.directory(cfg),
        "system": str(cfg.prompts.solver_system),
        "prompts": max(1, rows // SAMPLES),
        "samples": min(rows, SAMPLES),
        "tokens": 4 if small else 64,
        "threads": threads,
    }
    rates: dict[str, list[float]] = {}
    reasons: dict[str, str] = {}
    with ExitStack() as open_sides:
        sides = dict.fromkeys(TORCH, _start("torch", settings, open_sides))
        for kind in VLLM if why_absent() is None else ():
            sides[f"vllm_{kind}"] = _start(f"vllm_{kind}", settings, open_sides)
        for turn in range(-1, 1 if small else repeats):
            for name, side in list(sides.items()):
                under_way(f"{name}, {f'turn {turn + 1}' if turn >= 0 else 'loading and warm-up'}")
                try:
                    drawn = side.step(name if turn >= 0 else f"warm up {name}")
                except RuntimeError as ended:
                    if not name.startswith("vllm"):
                        raise
                    reasons[name] = str(ended)
                    del sides[name]
                    continue
                if turn >= 0:
                    rates.setdefault(name, []).append(drawn["tokens"] / drawn["seconds"])
        facts = sides["int8"].step("facts")
    median = {name: statistics.median(values) for name, values in rates.items()}
    plain = [median[name] for name in ("vllm_float32", "vllm_bfloat16") if name in median]
    ours = median["int8"]
    return {
        "vs_vllm": ours / max(plain) if plain else None,
        "vs_generate": ours / median["generate"],
        "vs_float32": ours / median["float32"],
        "vs_vllm_w8a8": ours / median["vllm_w8a8"] if "vllm_w8a8" in median else None,
        "float32_vs_vllm": median["float32"] / max(plain) if plain else None,
        "int8_mfu": ours * facts["operations_per_token"] / facts["int8_peak"],
        "int8_peak_gops": facts["int8_peak"] / 1e9,
        **{f"{name}_tokens_per_second": value for name, value in median.items()},
        "not_measured": why_absent() or reasons or None,
        "rows": settings["prompts"] * settings["samples"],
        "tokens": settings["tokens"],
        "threads": threads,
    }


def _start(side: str, settings: Json, among: ExitStack) -> Side:
    started = Side(WORKER, side, json.dumps(settings), threads=settings["threads"], by_cpu=False)
    among.callback(started.close)
    return started
