"""A causal language model with its tokenizer: load, save, copy, fingerprint.

Weights are always handled under their Hugging Face names with LoRA merged into scratch tensors (`rzero.gathering`), so
that the trainer, the rollout engines and the saved directory agree on what "the policy" is.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.core_model_loading import revert_weight_conversion

from rzero.adapters import (
    LoraSpec,
    adapter_weights,
    add_adapters,
    base_of,
    holds_adapters,
    load_adapters,
    save_adapters,
    unwrap_adapters,
    with_adapters_merged,
)
from rzero.durable import new_directory
from rzero.gathering import Part, model_parts, part_of, sha256_of_parts, take_part, tensor_errors, write_parts
from rzero.repairs import repaired
from rzero.types import Json

_WEIGHT_PATTERNS = ("*.safetensors", "pytorch_model*.bin")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
_CONFIGS = ("config.json", "generation_config.json", "adapter_config.json", "model.safetensors.index.json")


@dataclass(frozen=True, slots=True, eq=False)
class Policy:
    """A causal language model, perhaps inside PEFT's wrapper, which answers alike, and its tokenizer.

    `notes` says, a line each, what was changed while it was loaded. known_hash: what `weights_hash` returns, for a
    policy that is not trained and whose weights are perhaps in another process.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    notes: tuple[str, ...] = ()
    known_hash: str | None = None

    def save(self, directory: Path, *, write: bool = True) -> None:
        """Writes an ordinary Hugging Face directory (safetensors, tokenizer, config).

        With LoRA that is a directory of PEFT's format, which holds the adapters alone and names the weights below them.
        It appears whole and durable or not at all; an older model is replaced, other files are kept. When the model is
        split over ranks every rank calls this, and one of them with `write`.

        Raises OSError with the path when the disk fails; what was there before is there then.
        """
        adapters, unwritten = adapter_weights(self.model), unwrap_adapters(self.model)._keys_to_ignore_on_save or ()
        parts = [part_of(*item) for item in adapters.items()] if adapters else model_parts(self.model)
        # tied weights are saved once and tied again by who loads them
        parts = [replace(part, names=part.names[:1]) for part in parts if part.names[0] not in unwritten]
        if not write:
            take_part(parts)
            return
        directory = Path(directory)
        with new_directory(directory) as partial, tensor_errors(partial):
            if adapters:
                save_adapters(self.model, {part.names[0]: part.gather() for part in parts}, partial)
            else:
                _write_model(_skeleton(self.model), parts, partial)
            self.tokenizer.save_pretrained(partial)
            _keep_others(directory, partial)

    def size(self, *, trained: bool = False) -> int:
        """Returns the bytes of all weights, or of those that are trained."""
        parameters = (p for p in self.model.parameters() if p.requires_grad or not trained)
        return sum(parameter.numel() * parameter.element_size() for parameter in parameters)

    def weights_hash(self) -> str:
        """Returns the sha256 over names, dtypes, shapes and bytes of the merged weights. Equal after save and load."""
        if self.known_hash is not None:
            return self.known_hash
        return sha256_of_parts(model_parts(self.model))

    def copy(self) -> Policy:
        """Returns a frozen copy in evaluation mode, for use as a KL reference. The tokenizer is shared."""
        model = copy.deepcopy(self.model).eval()
        return Policy(model=model.requires_grad_(False), tokenizer=self.tokenizer)

    def vocabulary(self) -> int:
        """Returns how many tokens the model embeds, which may be more than its tokenizer has."""
        return _embedded(self.model)

    def eos_ids(self) -> tuple[int, ...]:
        """Returns every token that ends a response, from the generation config and the tokenizer. May be empty."""
        configured = self.model.generation_config.eos_token_id if self.model.generation_config else None
        ids = configured if isinstance(configured, list) else [configured]
        return tuple(sorted({i for i in (*ids, self.tokenizer.eos_token_id) if i is not None}))

    def pad_id(self) -> int:
        """Returns the token that fills up short rows: any will do, because what counts is known by position."""
        pad = self.tokenizer.pad_token_id
        return next(iter(self.eos_ids()), 0) if pad is None else pad

    def context(self) -> int | None:
        """Returns the longest sequence (tokens, the response included) the model was built for; None: no limit."""
        return getattr(self.model.config.get_text_config(), "max_position_embeddings", None)


def load_policy(
    path_or_id: str | Path,
    *,
    dtype: str,
    attn_implementation: str,
    trust_remote_code: bool = False,
    lora: LoraSpec | Json | None = None,
    adapter: str | Path | None = None,
    gradient_checkpointing: bool = False,
    outline: bool = False,
) -> Policy:
    """Loads a model and its tokenizer from a directory or, given `owner/name`, from the hub.

    lora: adapters to train in place of the weights. adapter: a directory that `Policy.save` left with LoRA; those
    adapters go on from there. Where the path itself is one, it means the sum of the weights below and the adapters.

    A path is never looked up on the hub: anything that exists here, starts with `.`, `/` or `~`, has more or fewer than
    one slash, or whose first part is a directory here, is a path.

    outline: the model without values, on the device `meta`, as `fill_from_first` takes it; no weights are read but, to
    be checked, adapters that go on.

    What would fail later and can be put right is (`rzero.repairs`); `Policy.notes` says so.

    Raises FileNotFoundError when the path, or a file the directory must hold, is missing, and ValueError when the
    files do not make a complete model or the dtype is not usable on this machine.
    """
    torch_dtype = _parse_dtype(dtype)
    below, merged = _weights_below(path_or_id)
    source, local = _resolve(below)
    options: Json = {"trust_remote_code": trust_remote_code, "local_files_only": local}
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
        make = _outline if outline else _with_weights
        model, broken = make(source, dtype=torch_dtype, attn_implementation=attn_implementation, **options)
    except Exception as error:  # transformers, safetensors and tokenizers each raise their own types for bad files
        raise ValueError(
            f"cannot load a policy from {source}: {type(error).__name__}: {str(error).splitlines()[0]}"
        ) from error
    if broken:
        raise ValueError(f"{source} lacks weights for {broken[:5]} ({len(broken)} in all); is the download complete?")
    if len(tokenizer) > (rows := _embedded(model)):
        raise ValueError(f"{source}: the tokenizer has {len(tokenizer)} tokens, the model embeds only {rows}")
    notes = repaired(model, tokenizer)
    for directory in () if outline else merged:
        model = with_adapters_merged(model, directory)
    if gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if lora is not None:
        spec = lora if isinstance(lora, LoraSpec) else LoraSpec(**lora)
        model = add_adapters(model, spec)
        if adapter is not None:
            load_adapters(model, spec, Path(adapter))
    elif adapter is not None and not outline:
        model = with_adapters_merged(model, Path(adapter))
    return Policy(model=model, tokenizer=tokenizer, notes=notes)


def _embedded(model: PreTrainedModel) -> int:
    weight = model.get_input_embeddings().weight
    assert isinstance(weight, Tensor)
    return len(weight)


def _with_weights(source: str, **options: Any) -> tuple[PreTrainedModel, list[str]]:
    """The model, and the names of weights that its files lack."""
    loaded: Any = AutoModelForCausalLM.from_pretrained(source, output_loading_info=True, **options)
    model, loading = loaded
    # from_pretrained fills absent weights with random numbers and only warns.
    return model, sorted(str(key) for kind in ("missing_keys", "mismatched_keys") for key in loading[kind])


def _outline(
    source: str, *, dtype: torch.dtype, attn_implementation: str, trust_remote_code: bool, local_files_only: bool
) -> tuple[PreTrainedModel, list[str]]:
    """The model as `from_pretrained` leaves it but for its values."""
    options: Json = {"trust_remote_code": trust_remote_code, "local_files_only": local_files_only}
    config = AutoConfig.from_pretrained(source, **options)
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            config, dtype=dtype, attn_implementation=attn_implementation, trust_remote_code=trust_remote_code
        )
    with suppress(OSError):  # without the file there is what the configuration says
        model.generation_config = GenerationConfig.from_pretrained(source, local_files_only=local_files_only)
    return model.eval(), []


def require_policy(path_or_id: str | Path) -> None:
    """Raises what `load_policy` raises where a path is wrong, before anything is loaded; a hub id is not looked up."""
    _resolve(_weights_below(path_or_id)[0])


def _write_model(skeleton: PreTrainedModel, parts: Sequence[Part], directory: Path) -> None:
    """Configuration and weights as `save_pretrained` writes them; it would have the whole model in memory for that.

    Some architectures have other tensors in their files than in memory (experts in one piece). Only transformers knows
    how to take them apart again, and wants all of them at once.
    """
    outlines = {part.names[0]: torch.empty(part.shape, dtype=part.dtype, device="meta") for part in parts}
    if revert_weight_conversion(skeleton, outlines).keys() == outlines.keys():
        skeleton.save_pretrained(directory, state_dict={})
        write_parts(directory, parts, stem="model", write=True, purpose="saving a model")
    else:
        skeleton.save_pretrained(directory, state_dict={part.names[0]: part.gather().cpu() for part in parts})


def _skeleton(model: PreTrainedModel) -> PreTrainedModel:
    """An object of the same architecture without LoRA layers or shards, for its config and `save_pretrained` only."""
    base = unwrap_adapters(model)
    if base is model and not isinstance(model, FSDPModule):
        return model
    with torch.device("meta"):
        skeleton = architecture_of(base)(copy.deepcopy(base.config))
    skeleton.generation_config = base.generation_config
    return skeleton


def architecture_of(model: PreTrainedModel) -> type[PreTrainedModel]:
    """Returns the model's class; FSDP2 puts a class of its own in front of it."""
    return next(
        kind for kind in type(model).__mro__ if issubclass(kind, PreTrainedModel) and not issubclass(kind, FSDPModule)
    )


def _keep_others(directory: Path, successor: Path) -> None:
    """Files beside an older model that are no part of one also belong to its successor."""
    for path in directory.glob("*"):
        is_model = path.name in _CONFIGS or any(path.match(pattern) for pattern in _WEIGHT_PATTERNS)
        if not is_model and path.is_file() and not (successor / path.name).exists():
            os.link(path, successor / path.name)


def _parse_dtype(name: str) -> torch.dtype:
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ValueError(f"policy.dtype must name a floating type such as float32, got {name!r}")
    if dtype is not torch.float32 and not torch.cuda.is_available():
        raise ValueError(f"policy.dtype={name} needs a GPU; on this machine use float32 (bfloat16 is 9x slower on CPU)")
    return dtype


def _weights_below(path_or_id: str | Path) -> tuple[str | Path, list[Path]]:
    """Where the weights themselves are, and the directories of adapters that stand between them and the path."""
    merged: list[Path] = []
    while holds_adapters(os.path.expanduser(path_or_id)):
        directory = Path(os.path.expanduser(path_or_id))
        if directory in merged:
            raise ValueError(f"the adapters in {directory} are said to lie over themselves (base_model_name_or_path)")
        merged.insert(0, directory)
        path_or_id = base_of(directory)
    return path_or_id, merged


def _resolve(path_or_id: str | Path) -> tuple[str, bool]:
    text = os.path.expanduser(str(path_or_id))
    path = Path(text)
    looks_local = text.startswith((".", "/")) or text.count("/") != 1 or Path(text.split("/")[0]).is_dir()
    if not path.exists() and not looks_local:
        return text, False
    if not path.is_dir():
        what = "is not a directory" if path.exists() else "does not exist"
        raise FileNotFoundError(
            f"policy path {path.resolve()} {what}; give a directory written by save_pretrained or a hub id owner/name"
        )
    _check_directory(path)
    return str(path), True


def _check_directory(path: Path) -> None:
    missing = []
    if not (path / "config.json").is_file():
        missing.append("config.json")
    if not any(next(path.glob(pattern), None) for pattern in _WEIGHT_PATTERNS):
        missing.append("weights (*.safetensors)")
    if not any((path / name).is_file() for name in _TOKENIZER_FILES):
        missing.append("a tokenizer (tokenizer.json)")
    if missing:
        raise FileNotFoundError(
            f"{path.resolve()} is no complete model directory: it lacks {' and '.join(missing)}; "
            "save both the model and the tokenizer there with save_pretrained"
        )
    try:
        json.loads((path / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{path.resolve()}/config.json is not valid JSON ({error}); copy the directory again"
        ) from error
