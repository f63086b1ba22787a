"""A policy in the form vLLM reads: its architecture, and weights under every name that vLLM keeps apart."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from rzero.adapters import adapter_rank, unwrap_adapters
from rzero.policy import Policy, architecture_of, merged_weights

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


def serving_weights(model: PreTrainedModel) -> dict[str, Tensor]:
    """Merged weights under Hugging Face names, with the head under a name of its own also where it is tied.

    vLLM on CPUs packs the head into a buffer of its own. Weights that come without `lm_head.weight`, as in a directory
    that transformers saved, then leave the old head in place without a word; log-probs are off by about one nat.
    """
    weights, base = merged_weights(model), unwrap_adapters(model)
    names = {id(module): name for name, module in base.named_modules()}
    head, embedding = base.get_output_embeddings(), base.get_input_embeddings()
    if base.config.get_text_config().tie_word_embeddings:
        weights[f"{names[id(head)]}.weight"] = weights[f"{names[id(embedding)]}.weight"]
    return weights


def copied(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies in host memory; a tensor that has two names is copied once."""
    done: dict[int, Tensor] = {}
    for tensor in weights.values():
        if id(tensor) not in done:
            done[id(tensor)] = torch.empty_like(tensor, device="cpu").copy_(tensor)
    return {name: done[id(tensor)] for name, tensor in weights.items()}


def write_weights(directory: Path, weights: Mapping[str, Tensor]) -> None:
    """One safetensors file. Its format knows no tensor with two names, so a tied head is written twice."""
    tensors: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in weights.items():
        host = tensor.detach().to("cpu").contiguous()
        tensors[name] = host.clone() if host.data_ptr() in seen else host
        seen.add(host.data_ptr())
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
