"""A policy in the form vLLM reads: its architecture, and weights under every name that vLLM keeps apart."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from rzero.adapters import adapter_rank, unwrap_adapters
from rzero.gathering import Part, model_parts
from rzero.policy import Policy, architecture_of

_NOT_ARCHITECTURE = ("_name_or_path", "use_cache", "transformers_version")


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """A model's shape, which must be equal for a running vLLM to change from one model's weights to another's."""

    config: str
    """config.json as text."""
    dtype: str
    """Such as float32: what weights are rounded to when they are loaded."""
    context: int | None
    """Longest sequence (tokens) that the model was built for."""
    adapter_rank: int | None = None
    """Rank of the LoRA adapters that are served over it; None: without."""

    def write(self, directory: Path) -> None:
        (directory / "config.json").write_text(self.config, encoding="utf-8")


def architecture(policy: Policy, *, dtype: torch.dtype | None = None) -> Architecture:
    """Returns that of the policy's model without adapters, to be served in `dtype` (None: the model's)."""
    base = unwrap_adapters(policy.model)
    config = {name: value for name, value in base.config.to_dict().items() if name not in _NOT_ARCHITECTURE}
    name = str(dtype or base.dtype).removeprefix("torch.")
    config |= {"architectures": [architecture_of(base).__name__], "dtype": name}
    return Architecture(
        config=json.dumps(config, sort_keys=True, indent=1),
        dtype=name,
        context=policy.context(),
        adapter_rank=adapter_rank(policy.model),
    )


def serving_parts(policy: Policy, *, dtype: torch.dtype | None = None) -> list[Part]:
    """Returns the policy's weights below its adapters, rounded to what they are served in (None: the model's dtype).

    Also where it is tied the head comes under a name of its own when this machine has no GPU: vLLM on CPUs packs the
    head into a buffer of its own, and weights without `lm_head.weight`, as in a directory that transformers saved,
    leave the old one there without a word; log-probs are off by about one nat. On GPUs the head is the embedding.
    """
    base = unwrap_adapters(policy.model)
    parts = model_parts(policy.model, dtype=dtype or base.dtype, with_adapters=False)
    if torch.cuda.is_available():
        return [replace(part, names=part.names[:1]) for part in parts]
    return parts


def in_memory(parts: Sequence[Part]) -> dict[str, Tensor]:
    """Returns copies in host memory under every name; a tensor that has two names is copied once."""
    copies: dict[str, Tensor] = {}
    for part in parts:
        tensor = part.gather()
        copies |= dict.fromkeys(part.names, torch.empty_like(tensor, device="cpu").copy_(tensor))
    return copies
