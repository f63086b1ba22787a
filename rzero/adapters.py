"""Low-rank adapters (LoRA, arXiv 2106.09685) around a causal language model, by PEFT."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

_EMBEDDING_NAMES = ("embed_tokens", "lm_head", "wte", "embed_in", "embed_out")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraSpec:
    """Low-rank adapters trained in place of the full weights. Effective scale is `alpha / rank`.

    `dropout` is there for PEFT and must be 0: GRPO compares log-probs of two passes over the same tokens.
    """

    rank: int
    alpha: float
    dropout: float
    target_modules: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.dropout:
            raise ValueError(
                f"policy.lora.dropout must be 0, got {self.dropout}: the ratio to the old policy and the KL would "
                "measure which weights were dropped"
            )


def add_adapters(model: PreTrainedModel, spec: LoraSpec) -> Any:
    """Returns PEFT's wrapper around `model`, which answers like the model and trains the adapters alone.

    Raises ValueError for target modules whose weights the model ties together.
    """
    from peft import LoraConfig, get_peft_model  # slow to import, needed only with adapters

    tied = model.config.get_text_config().tie_word_embeddings
    if tied and (wrong := [name for name in spec.target_modules if name in _EMBEDDING_NAMES]):
        raise ValueError(f"lora.target_modules has {wrong}, which this model ties together; leave them out")
    config = LoraConfig(
        r=spec.rank,
        lora_alpha=spec.alpha,  # type: ignore[arg-type]  # annotated as int, used as a factor
        lora_dropout=spec.dropout,
        target_modules=list(spec.target_modules),
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]):
        # all ranks, and a resumed run, must draw the same adapters; they start as a sum with nothing
        torch.manual_seed(0)
        return get_peft_model(model, config)


def unwrap_adapters(model: nn.Module) -> PreTrainedModel:
    """Returns the transformers model itself, whether or not LoRA layers sit in it or a wrapper around it."""
    return next(module for module in model.modules() if isinstance(module, PreTrainedModel))


def adapter_weights(model: nn.Module) -> dict[str, Tensor]:
    """Returns the adapters' tensors alone, which may be split over ranks; empty without LoRA."""
    return {name: parameter.detach() for name, parameter in model.named_parameters() if ".lora_" in name}


def save_adapters(model: Any, adapters: Mapping[str, Tensor], directory: Path) -> None:
    """Writes them in PEFT's own format. Its file names no adapter, so `PeftModel.from_pretrained` can choose a name."""
    directory.mkdir()
    [adapter] = model.active_adapters
    tensors = {name.replace(f".{adapter}.", "."): tensor.contiguous() for name, tensor in adapters.items()}
    save_file(tensors, directory / "adapter_model.safetensors", metadata={"format": "pt"})
    config = copy.deepcopy(model.peft_config[adapter])
    config.inference_mode = True
    config.save_pretrained(str(directory))
