"""A whole GRPO step of a real language model (rollout, reward, update) against TRL's GRPOTrainer.

Both sides have the experiment's Solver prompt, adapters and learning rate, the paper's KL term, the same school
problems, and two threads. TRL keeps float32 products and takes the micro-batch that is fastest for it, with gradient
checkpointing or without, among those that fit its limit of memory; ours is measured with float32 products and with
those that the experiment has. CPU seconds; lengths are drawn, so times are divided by completion tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from omegaconf import OmegaConf

from experiments.bench import subject
from experiments.bench.grpo import WORK, require_trl, start
from experiments.bench.sides import under_way
from rzero.types import Json

MICRO_BATCHES = (2, 4, 8, 16)
"""Rows that TRL is tried with."""
TRL_GIB = 12
PARTS = ("step", "rollout", "update")


def run(model: str, *, small: bool = False) -> Json:
    """Ratios above 1 mean that TRL takes longer (goal: step 2.5) or, for memory, that we take more (goal: 0.6).

    One step after a warm-up of few tokens. step, rollout (reward included) and update: by CPU seconds a completion
    token. small: a few tokens, to see that it runs.
    """
    require_trl()
    work = settings(model, small=small)
    best, trials = _best_for_trl(work)
    under_way(f"TRL, {_named(best)}: a warm-up and a whole step")
    taken = {"trl": _steps("trl", work | best)}
    for precision in dict.fromkeys((work["matmul_precision"], "highest")):
        under_way(f"ours, matmul_precision={precision}: a warm-up and a whole step")
        taken[f"ours_{precision}"] = _steps("ours", work | {"matmul_precision": precision})
    ours = f"ours_{work['matmul_precision']}"
    return {
        **{f"{part}_speedup_vs_trl": taken["trl"][part] / taken[ours][part] for part in PARTS},
        "step_speedup_vs_trl_highest": taken["trl"]["step"] / taken["ours_highest"]["step"],
        "peak_rss_ratio_vs_trl": taken[ours]["peak_rss_mib"] / taken["trl"]["peak_rss_mib"],
        "matmul_precision": work["matmul_precision"],
        **{f"{name}_{part}_ms_per_token": 1e3 * one[part] for name, one in taken.items() for part in PARTS},
        **{f"{name}_{key}": one[key] for name, one in taken.items() for key in ("peak_rss_mib", "tokens")},
        "trl_micro_batch": best["trl_rows"],
        "trl_checkpointing": best["trl_checkpointing"],
        "trl_update_ms_per_token": trials,
    }


def settings(model: str, *, small: bool) -> Json:
    """Returns a step's work in the words of `experiments.bench.grpo.WORK`."""
    cfg = subject.composed(model)
    plain: Any = OmegaConf.to_container(cfg, resolve=True)
    solver, engine = plain["solver"], plain["engine"]
    return {
        "model": subject.directory(cfg),
        "system": plain["prompts"]["solver_system"],
        "questions": "problems",
        "threads": plain["threads"],
        "lora": plain["policy"]["lora"],
        "prompts": 2 if small else 8,
        "samples": 2 if small else 8,
        "max_tokens": 8 if small else 192,
        "warm_up_tokens": 4 if small else 16,
        "learning_rate": solver["optimizer"]["lr"],
        "kl_coefficient": WORK["kl_coefficient"],  # the paper's, also where the experiment goes without
        "clip": solver["loss"]["clip_low"],
        "matmul_precision": plain["matmul_precision"],
        "corrected": True,
        "checkpointing": plain["policy"]["gradient_checkpointing"],
        **{key: solver["settings"][key] for key in ("max_tokens_per_microbatch", "share_prompts", "chunk_tokens")},
        "engine": {key: value for key, value in engine.items() if key != "_target_"},
        "trl_rows": 2,
        "trl_checkpointing": False,
        "trl_gib": TRL_GIB,
    }


def _best_for_trl(work: Json) -> tuple[Json, list[Json]]:
    """Returns the settings of TRL's fastest update, by a step of a few prompts, and all that were tried; those of no
    time did not fit."""
    tried = [trial for checkpointing in (False, True) for trial in _trials(work, checkpointing=checkpointing)]
    fitting = [trial for trial in tried if trial["update"] is not None]
    if not fitting:
        raise RuntimeError(f"TRL takes no step within {work['trl_gib']} GiB, not even with {MICRO_BATCHES[0]} rows")
    best = min(fitting, key=lambda trial: float(trial["update"]))
    return {name: best[name] for name in ("trl_rows", "trl_checkpointing")}, tried


def _trials(work: Json, *, checkpointing: bool) -> Iterator[Json]:
    """Yields settings of TRL and the milliseconds a token of its update, up to the first that does not fit (None)."""
    for rows in MICRO_BATCHES:
        prompts = -(-rows // work["samples"])
        if prompts > work["prompts"]:
            return
        setting = {"trl_rows": rows, "trl_checkpointing": checkpointing}
        under_way(f"TRL, {_named(setting)}: a step of {prompts} prompts, to find its fastest way")
        try:
            update = 1e3 * _steps("trl", work | setting | {"prompts": prompts}, warm=False)["update"]
        except RuntimeError:
            update = None
        yield setting | {"update": update}
        if update is None:
            return  # more rows need more memory


def _named(setting: Json) -> str:
    return f"{setting['trl_rows']} rows at a time{', with gradient checkpointing' * setting['trl_checkpointing']}"


def _steps(side: str, work: Json, *, warm: bool = True) -> Json:
    """CPU seconds a token of a step and its parts, its tokens, and the peak of memory (MiB)."""
    process = start(side, work)
    try:
        if warm:
            process.step("warm up")
        step = process.step("go")
        peak = process.step("rss")
    finally:
        process.close()
    tokens = step["tokens"]
    return {
        "step": step["step"] / tokens,
        "update": step["update"] / tokens,
        "rollout": (step["step"] - step["update"]) / tokens,
        "tokens": tokens,
        **peak,
    }
