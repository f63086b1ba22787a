"""The dtype of rollouts on a CPU where a run leaves it to the machine (`engine.dtype=auto`).

A layer and the output layer are timed as they are and rounded to int8. The faster choice is written down once; whoever
draws for the same run later, after a resumption or in another process, goes on with it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rzero.adapters import unwrap_adapters
from rzero.durable import write_atomically
from rzero.engines.embedded.fused_weights import arranged_head, arranged_layer, input_widths
from rzero.engines.embedded.linear import Dense, Linear, Rounded
from rzero.engines.embedded.rounded import base_weights, why_not_rounded
from rzero.engines.embedded.timing import best_seconds
from rzero.engines.threads import torch_threads
from rzero.policy import Policy


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """dtype: `int8`, or None for the policy's. Seconds of all layers for one token of `rows` rows, both ways.

    reason: why int8 was not measured, or empty.
    """

    dtype: str | None
    rows: int
    threads: int
    seconds: float | None = None
    int8_seconds: float | None = None
    reason: str = ""


def settled(path: Path, measure: Callable[[], Choice]) -> str | None:
    """Returns the dtype that `path` keeps. Where it is not there yet, it is measured and written; the first one counts.

    Raises ValueError where the file holds something else.
    """
    if not path.exists():
        own = path.with_name(f".{path.name}.{os.getpid()}")
        write_atomically(own, json.dumps(asdict(measure())).encode())
        with suppress(FileExistsError):  # another process of the run was faster
            os.link(own, path)
        own.unlink()
    try:
        dtype = json.loads(path.read_bytes())["dtype"]
        if dtype not in ("int8", None):
            raise ValueError(dtype)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} does not say which dtype this run draws in ({error!r}); restore it") from error
    return "int8" if dtype else None


@torch.no_grad()
def measured(policy: Policy, *, rows: int, threads: int, device: torch.device) -> Choice:
    """Returns the faster of the policy's own dtype and int8 for `rows` rows side by side on `threads` threads."""
    model = unwrap_adapters(policy.model)
    if (reason := why_not_rounded(model, device)) is not None:
        return Choice(dtype=None, rows=rows, threads=threads, reason=reason)
    with torch_threads(threads):
        plain, rounded = (_seconds(model, kind, rows=rows) for kind in (Dense, Rounded))
    dtype = "int8" if rounded < plain else None
    return Choice(dtype=dtype, rows=rows, threads=threads, seconds=plain, int8_seconds=rounded)


def _seconds(model: PreTrainedModel, linear: Callable[[Tensor, Tensor | None], Linear], *, rows: int) -> float:
    config, weights, generator = model.config, base_weights(model), torch.Generator().manual_seed(0)
    layer, head = arranged_layer(config, weights, 0, linear), arranged_head(config, weights, linear)
    products: list[tuple[Linear, Tensor]] = [
        (getattr(layer, name), torch.randn(rows, width, generator=generator))
        for name, width in input_widths(config).items()
    ]
    x_WE = torch.randn(rows, config.hidden_size, generator=generator)
    in_layer = best_seconds(lambda: [product(x_WI) for product, x_WI in products])
    return float(config.num_hidden_layers * in_layer + best_seconds(lambda: head(x_WE)))
