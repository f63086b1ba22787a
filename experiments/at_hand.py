"""A run on the machine at hand: is there memory for it, and about how long will it take.

Both are the formulas of `experiments.plan`, with what is free now and a moment of measured products in place of a data
sheet. Models of a few million parameters are left alone: they fit, and their time is not that of products.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from experiments.compose import CONF
from experiments.plan import phases_of, resolved
from experiments.planning import Architecture, Hardware, Setting, evaluation
from rzero.types import Json

GIB = 2**30
WORTH_TELLING = 50_000_000
"""Parameters below which nothing is said."""
_EMBEDDED = "rzero.engines.embedded.EmbeddedEngine"
_SECONDS = 0.3
"""For each of the measured products."""


def measured(*, threads: int, dtype: str | None, **assumed: Any) -> Hardware:
    """Returns this machine's CPUs as a device: products with many rows as `fp32_tflops`, with few as `peak_tflops`.

    dtype: what few rows are multiplied in, `int8` or None for float32.
    """
    import torch

    from rzero.engines.embedded.linear import Dense, Rounded
    from rzero.engines.threads import torch_threads

    weight_IO, x_WI = torch.ones(896, 4864), torch.ones(1024, 896)
    few = (Rounded if dtype == "int8" else Dense)(weight_IO, None)
    with torch_threads(threads), torch.inference_mode():
        many = 2 * x_WI.numel() * weight_IO.shape[1] / _seconds_of(lambda: x_WI @ weight_IO)
        decoding = 2 * 64 * weight_IO.numel() / _seconds_of(lambda: few(x_WI[:64]))
        table = torch.ones(2**24)
        copied = 2 * table.nbytes / _seconds_of(table.clone)
    return Hardware(
        name="the machine at hand",
        peak_tflops=decoding / 1e12,
        tf32_tflops=many / 1e12,
        fp32_tflops=many / 1e12,
        bandwidth_gb_s=copied / 1e9,
        memory_gib=psutil.virtual_memory().available / GIB,
        **assumed,
    )


def _seconds_of(work: Callable[[], object]) -> float:
    """The mean time of a call, after one that does not count."""
    work()
    calls, started = 0, time.perf_counter()
    while (took := time.perf_counter() - started) < _SECONDS:
        work()
        calls += 1
    return took / calls


def require_memory(cfg: DictConfig) -> None:
    """Raises ValueError where the model is too large for the memory that is free, before anything is loaded."""
    if (known := _known(cfg)) is None:
        return
    model, setting = known
    free = psutil.virtual_memory().available
    phases = phases_of(resolved(cfg), model, setting, _unmeasured())
    needed = max(phase["memory"]["peak"] for phase in phases.values())
    if needed > free:
        checkpointing = "" if setting.checkpointing else ", or policy.gradient_checkpointing=true"
        raise ValueError(
            f"{cfg.policy.path_or_id} needs an estimated {needed:,.0f} bytes ({needed / GIB:.1f} GiB) of memory and "
            f"{free:,.0f} ({free / GIB:.1f} GiB) are free: a smaller model, smaller max_tokens_per_microbatch, fewer "
            f"engine.max_rows{checkpointing}"
        )


def _assumed() -> DictConfig:
    """The node of `hardware=here`; composing it would lead the configuration's resolvers away from the run."""
    node = OmegaConf.merge(*(OmegaConf.load(CONF / "hardware" / name) for name in ("_assumed.yaml", "here.yaml")))
    assert isinstance(node, DictConfig)
    del node["defaults"]
    return node


def _unmeasured() -> Hardware:
    """The machine at hand as far as bytes go."""
    names = ("peak_tflops", "tf32_tflops", "fp32_tflops", "bandwidth_gb_s", "memory_gib")
    known: Json = {"name": "the machine at hand", **dict.fromkeys(names, 1.0)}
    node = _assumed()
    for asked_of_the_run in ("_target_", "threads", "dtype"):
        del node[asked_of_the_run]
    known |= {str(name): value for name, value in node.items()}
    return Hardware(**known)


def estimate(cfg: DictConfig, *, questions: Mapping[str, int]) -> str | None:
    """Returns a rough estimate of the run's hours on this machine in a line; None where nothing can be said.

    questions: how many each benchmark asks.
    """
    if (known := _known(cfg)) is None:
        return None
    model, setting = known
    own = {"threads": cfg.threads, "dtype": cfg.engine.dtype}
    drawing: Hardware = instantiate(_assumed(), **own, _convert_="all")
    drawing = replace(drawing, questions=questions, memory_gib=drawing.memory_gib * 1e3)  # room has been looked at
    plain = resolved(cfg)
    drawn = phases_of(plain, model, setting, drawing)
    learned = phases_of(plain, model, setting, replace(drawing, peak_tflops=drawing.fp32_tflops))
    each = {
        "rollouts": sum(phase["hours_of"]["rollouts"] for phase in drawn.values()),
        "updates": sum(phase["hours_of"].get("updates", 0.0) for phase in learned.values()),
    }
    evaluated = evaluation(plain["benchmarks"], model, setting, drawing).hours
    hours = cfg.iterations * sum(each.values()) + (cfg.iterations + 1) * evaluated
    return (
        f"about {hours:.1f} h on the machine at hand (a rough estimate from a second of products, "
        f"{drawing.fp32_tflops:.2f} Tflop/s in updates and {drawing.peak_tflops:.2f} in rollouts): an iteration "
        f"{each['rollouts']:.1f} h of rollouts and {each['updates']:.1f} h of updates, an evaluation {evaluated:.1f} h"
    )


def _known(cfg: DictConfig) -> tuple[Architecture, Setting] | None:
    """The shape and the setting of a run whose demands on CPUs a formula knows."""
    if cfg.trainer.get("accelerator") != "cpu" or cfg.engine.get("_target_") != _EMBEDDED:
        return None
    plain = resolved(cfg)
    config = Path(plain["policy"]["path_or_id"]) / "config.json"
    if config.is_file():  # the recipe's own policy may be another one
        shape = json.loads(config.read_text(encoding="utf-8"))
        if {"hidden_size", "num_attention_heads"} <= shape.keys():
            shape.setdefault("head_dim", shape["hidden_size"] // shape["num_attention_heads"])
        plain["policy"]["architecture"] = shape
    try:
        model = Architecture.of(plain["policy"])
    except ValueError:  # another kind of architecture, or a hub id of which nothing is known
        return None
    return (model, Setting.of(plain)) if model.parameters >= WORTH_TELLING else None
