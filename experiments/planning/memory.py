"""Bytes per device in a training phase, kind by kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from experiments.planning.architecture import Architecture
from experiments.planning.hardware import Hardware
from experiments.planning.rollouts import BYTES, Rollouts
from rzero.types import Json

_ADAM = 8  # two float32 moments per trained parameter


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Where a configuration keeps things."""

    devices: int
    sharded: bool  # FSDP2
    weight_bytes: int
    mixed: bool  # products in bf16 from float32 weights
    lora: Json | None
    checkpointing: bool
    rollouts: Rollouts

    @classmethod
    def of(cls, cfg: Json) -> Setting:
        """From a resolved run configuration."""
        trainer, policy = cfg["trainer"], cfg["policy"]
        strategy = trainer.get("strategy") or {}
        rounded = trainer["precision"].endswith("-true") and "16" in trainer["precision"]
        weight_bytes = 2 if rounded else BYTES[policy["dtype"]]
        return cls(
            devices=trainer["devices"],
            sharded=isinstance(strategy, Mapping) and strategy.get("_target_", "").endswith("ModelParallelStrategy"),
            weight_bytes=weight_bytes,
            mixed="mixed" in trainer["precision"],
            lora=policy["lora"],
            checkpointing=policy["gradient_checkpointing"],
            rollouts=Rollouts.of(cfg, policy_bytes=weight_bytes),
        )

    def trained_parameters(self, model: Architecture) -> int:
        if self.lora is None:
            return model.parameters
        return model.adapter_parameters(rank=self.lora["rank"], target_modules=list(self.lora["target_modules"]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes on one device. Rollouts and updates take turns: the peak has the larger of cache and activations.

    cache_stays: vLLM keeps its cache during updates, and the peak has both.
    """

    weights: float
    reference: float
    gradients: float
    optimiser: float
    engines: float
    activations: float
    kv_cache: float
    cache_stays: bool = False

    @property
    def standing(self) -> float:
        """Bytes that are there all the time."""
        kept = self.weights + self.reference + self.gradients + self.optimiser + self.engines
        return kept + self.cache_stays * self.kv_cache

    @property
    def peak(self) -> float:
        return self.standing + (self.activations if self.cache_stays else max(self.activations, self.kv_cache))


def memory_of(
    model: Architecture,
    setting: Setting,
    hardware: Hardware,
    *,
    microbatch_tokens: int,
    chunk_tokens: int,
    needs_reference: bool,
) -> Memory:
    """Memory of one role's phase."""
    parts = setting.devices if setting.sharded else 1
    trained = setting.trained_parameters(model)
    all_weights = model.parameters * setting.weight_bytes
    number = 2 if setting.mixed or setting.weight_bytes == 2 else 4
    gathered = (model.layer_parameters + model.embedding_parameters) * setting.weight_bytes if setting.sharded else 0
    return Memory(
        weights=all_weights / parts + gathered + _cast_bytes(model, setting),
        reference=all_weights / parts if needs_reference and setting.lora is None else 0,
        gradients=trained * setting.weight_bytes / parts,
        optimiser=trained * _ADAM / parts,
        engines=setting.rollouts.weights(model),
        activations=_activation_bytes(model, setting, tokens=microbatch_tokens, number=number)
        + 3 * 4 * chunk_tokens * model.vocab_size,  # logits, their softmax, its gradient
        kv_cache=setting.rollouts.cache(model, hardware),
        cache_stays=setting.rollouts.stays,
    )


def _cast_bytes(model: Architecture, setting: Setting) -> float:
    """Autocast keeps a bf16 copy of every weight for the length of a pass; under FSDP2 of a layer."""
    if not setting.mixed:
        return 0
    return 2 * (model.layer_parameters + model.embedding_parameters if setting.sharded else model.parameters)


def _activation_bytes(model: Architecture, setting: Setting, *, tokens: int, number: int) -> float:
    """Inputs of every matrix product, norms and the gate of a layer; with checkpointing of one layer at a time."""
    heads = (2 * model.num_attention_heads + 2 * model.num_key_value_heads) * model.head_dim
    layer = tokens * number * (6 * model.hidden_size + heads + 4 * model.intermediate_size)
    if not setting.checkpointing:
        return model.num_hidden_layers * layer
    return model.num_hidden_layers * tokens * model.hidden_size * number + layer
