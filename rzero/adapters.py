"""Low-rank adapters (LoRA, arXiv 2106.09685) around a causal language model, by PEFT.

During a run they are never merged into the weights below them: those lie on the grid of their dtype, in bf16 most of a
small delta would be rounded away. A phase leaves its adapters in a directory of PEFT's own format, and the next one
goes on from them.
"""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from rzero.frozen import FrozenLinear
from rzero.types import Json

if TYPE_CHECKING:
    from peft import PeftModel  # slow to import, needed only with adapters

REFERENCE = "reference"
"""The name of frozen adapters beside those that are trained, in the same model."""
_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
ALL_LINEAR = "all-linear"
"""PEFT's word for every linear layer but the head."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraSpec:
    """Low-rank adapters trained in place of the full weights. Effective scale is `alpha / rank`.

    `dropout` is there for PEFT and must be 0: GRPO compares log-probs of two passes over the same tokens.
    `target_modules` are names of modules, or the ends of their dotted names, or `ALL_LINEAR`.
    """

    rank: int
    alpha: float
    dropout: float
    target_modules: tuple[str, ...] | str

    def __post_init__(self) -> None:
        if isinstance(self.target_modules, str) and self.target_modules != ALL_LINEAR:
            raise ValueError(
                f"policy.lora.target_modules must be a list of names or {ALL_LINEAR}, got {self.target_modules!r}; "
                f"for one module write [{self.target_modules}]"
            )
        if self.dropout:
            raise ValueError(
                f"policy.lora.dropout must be 0, got {self.dropout}: the ratio to the old policy and the KL would "
                "measure which weights were dropped"
            )


def add_adapters(model: PreTrainedModel, spec: LoraSpec) -> Any:
    """Returns PEFT's wrapper around `model`, which answers like the model and trains the adapters alone.

    Raises ValueError for target modules whose weights the model ties together, and for ones that it does not have.
    """
    from peft import LoraConfig, get_peft_model  # slow to import, needed only with adapters

    targets = spec.target_modules if isinstance(spec.target_modules, str) else list(spec.target_modules)
    if isinstance(targets, list):
        _check_targets(model, targets)
    config = LoraConfig(
        r=spec.rank,
        lora_alpha=spec.alpha,  # type: ignore[arg-type]  # annotated as int, used as a factor
        lora_dropout=spec.dropout,
        target_modules=targets,
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]), model.device:
        # all ranks, and a resumed run, must draw the same adapters; they start as a sum with nothing
        torch.manual_seed(0)
        adapted = get_peft_model(model, config)
    for layer in adapted.modules():
        if hasattr(layer, "lora_A") and type(layer.base_layer) is nn.Linear:
            layer.base_layer = FrozenLinear(layer.base_layer)
    return adapted


def _check_targets(model: PreTrainedModel, targets: Sequence[str]) -> None:
    ends = [model.get_input_embeddings(), model.get_output_embeddings()]
    tied = model.config.get_text_config().tie_word_embeddings or ends[0].weight is getattr(ends[1], "weight", None)
    names = {name: module for name, module in model.named_modules() if name}
    for target in targets:  # as PEFT reads them: a name, or the end of a dotted one
        found = [module for name, module in names.items() if name == target or name.endswith(f".{target}")]
        if not found:
            raise ValueError(f"policy.lora.target_modules has {target!r}, and this model has no module of that name")
        if tied and any(module is end for module in found for end in ends):
            raise ValueError(
                f"policy.lora.target_modules has {target!r}: the embedding and the head, which this model ties "
                "together; leave it out"
            )


def unwrap_adapters(model: nn.Module) -> PreTrainedModel:
    """Returns the transformers model itself, whether or not LoRA layers sit in it or a wrapper around it."""
    return next(module for module in model.modules() if isinstance(module, PreTrainedModel))


def adapter_rank(model: nn.Module) -> int | None:
    """Returns the rank of the trained adapters; None without LoRA."""
    return next((int(config.r) for config in getattr(model, "peft_config", {}).values()), None)


def adapter_weights(model: nn.Module) -> dict[str, Tensor]:
    """Returns the trained adapters' tensors alone, which may be split over ranks; empty without LoRA."""
    return {
        name: parameter.detach()
        for name, parameter in model.named_parameters()
        if ".lora_" in name and f".{REFERENCE}." not in name
    }


def holds_adapters(directory: str | Path) -> bool:
    """Returns whether it is a directory of adapters (PEFT's format), which need the weights below them."""
    return (Path(directory) / _CONFIG).is_file()


def base_of(directory: str | Path) -> str:
    """Returns the path or hub id of the weights that the adapters in `directory` were trained over.

    Raises ValueError when their configuration does not say.
    """
    base = _config(Path(directory)).get("base_model_name_or_path")
    if not base or not isinstance(base, str):
        raise ValueError(f"{Path(directory) / _CONFIG} does not say over which weights these adapters were trained")
    return base


def save_adapters(model: Any, adapters: Mapping[str, Tensor], directory: Path) -> None:
    """Writes them in PEFT's own format. Its file names no adapter, so `PeftModel.from_pretrained` can choose a name."""
    [adapter] = model.active_adapters
    save_file(
        {_name_in_file(name, adapter): tensor.contiguous() for name, tensor in adapters.items()},
        directory / _WEIGHTS,
        metadata={"format": "pt"},
    )
    config = copy.deepcopy(model.peft_config[adapter])
    config.inference_mode = True
    config.target_modules = sorted(config.target_modules)  # a set is written in another order each time
    if (base := config.base_model_name_or_path) and Path(base).is_dir():  # None for a model that was built in memory
        config.base_model_name_or_path = str(Path(base).resolve())
    config.save_pretrained(str(directory))


@torch.no_grad()
def load_adapters(model: Any, spec: LoraSpec, directory: Path) -> None:
    """Gives the trained adapters of `model` the values that a phase left in `directory`, bit for bit.

    Raises FileNotFoundError when they are missing, ValueError when they are not of this model and `spec`.
    """
    config = _config(directory)
    [adapter] = model.active_adapters
    trained = model.peft_config[adapter]
    for name, ours, theirs in (
        ("rank", spec.rank, config.get("r")),
        ("alpha", spec.alpha, config.get("lora_alpha")),
        ("target_modules", sorted(trained.target_modules), sorted(config.get("target_modules") or ())),
    ):
        if ours != theirs:
            raise ValueError(f"{directory} holds adapters with {name} {theirs}, policy.lora.{name} is {ours}")
    own = {_name_in_file(name, adapter): tensor for name, tensor in adapter_weights(model).items()}
    try:
        saved = load_file(_weights_file(directory))
    except SafetensorError as error:
        raise ValueError(f"cannot read {directory / _WEIGHTS}: {error}") from error
    if {name: tensor.shape for name, tensor in own.items()} != {name: tensor.shape for name, tensor in saved.items()}:
        raise ValueError(f"{directory} holds adapters of another model than {base_of(directory)}")
    for name, tensor in own.items():
        tensor.copy_(saved[name])


def with_adapters_merged(model: PreTrainedModel, directory: Path) -> PreTrainedModel:
    """Returns `model` with the adapters of `directory` added to its weights, which are rounded to its dtype.

    Raises FileNotFoundError when they are missing, ValueError when they are not of this model.
    """
    from peft import PeftModel  # slow to import, needed only with adapters

    _weights_file(directory)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="Found missing adapter keys")
            wrapped = PeftModel.from_pretrained(model, str(directory))
    except Exception as error:  # PEFT, torch and safetensors each raise their own types for files that do not fit
        raise ValueError(
            f"cannot put the adapters in {directory} on top of {model.name_or_path}: {type(error).__name__}: "
            f"{str(error).splitlines()[0]}"
        ) from error
    merged = wrapped.merge_and_unload()
    merged.name_or_path = str(directory)  # adapters put on top of this are no good over the weights below
    merged.requires_grad_(True)
    assert isinstance(merged, PreTrainedModel)
    return merged


@torch.no_grad()
def keep_as_reference(model: PeftModel) -> None:
    """Adds a frozen copy of the trained adapters, as they are now, which is not active."""
    [trained] = model.active_adapters
    flags = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    config = copy.copy(model.peft_config[trained])
    config.inference_mode = True
    with torch.random.fork_rng(devices=[]), unwrap_adapters(model).device:  # values are drawn, and replaced below
        model.add_adapter(REFERENCE, config)
    parameters = dict(model.named_parameters())
    for name, tensor in adapter_weights(model).items():
        parameters[name.replace(f".{trained}.", f".{REFERENCE}.")].copy_(tensor)
    for name, parameter in parameters.items():
        parameter.requires_grad_(flags.get(name, False))


def _weights_file(directory: Path) -> Path:
    if not (path := directory / _WEIGHTS).is_file():
        raise FileNotFoundError(f"{directory} is no complete directory of adapters: it lacks {_WEIGHTS}")
    return path


def _config(directory: Path) -> Json:
    path = directory / _CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"{directory} is no directory of adapters: it lacks {_CONFIG}")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error}); copy the directory again") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} is no configuration of adapters")
    return found


def _name_in_file(name: str, adapter: str) -> str:
    return name.replace(f".{adapter}.", ".").removesuffix(f".{adapter}")  # it ends those of embeddings
