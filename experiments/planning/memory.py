"""Bytes per device in a training phase, kind by kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from experiments.planning.architecture import Architecture
from experiments.planning.hardware import Hardware
from experiments.planning.rollouts import BYTES, Rollouts
from rzero.types import Json

_ADAM = 8  # two float32 moments per trained parameter


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Where a configuration keeps things. devices: those of all `nodes`."""

    devices: int
    nodes: int
    sharded: bool  # FSDP2
    weight_bytes: int
    mixed: bool  # products in bf16 from float32 weights
    tf32: bool  # float32 products of GPUs on tensor cores
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
        nodes = trainer.get("num_nodes", 1)
        return cls(
            devices=trainer["devices"] * nodes,
            nodes=nodes,
            sharded=isinstance(strategy, Mapping) and strategy.get("_target_", "").endswith("ModelParallelStrategy"),
            weight_bytes=weight_bytes,
            mixed="mixed" in trainer["precision"],
            tf32=cfg["matmul_precision"] != "highest",
            lora=policy["lora"],
            checkpointing=policy["gradient_checkpointing"],
            rollouts=Rollouts.of(cfg, policy_bytes=weight_bytes),
        )

    def trained_parameters(self, model: Architecture) -> int:
        if self.lora is None:
            return model.parameters
        return model.adapter_parameters(rank=self.lora["rank"], target_modules=self.lora["target_modules"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes on one device. Rollouts, updates and syncs take turns, and the peak has the largest of the three.

    weights, reference, optimiser, gradients: a device's own part. gathered: weights and gradients that FSDP2 puts
    together for a while in an update. synced: the largest weight, put together while it is handed to an engine.
    engines, kv_cache: of rollouts. contexts: of CUDA and NCCL. cache_stays: vLLM keeps its cache during updates.
    """

    weights: float
    reference: float
    gradients: float
    optimiser: float
    gathered: float
    activations: float
    synced: float
    engines: float
    kv_cache: float
    contexts: float
    cache_stays: bool = False

    @property
    def trainer(self) -> float:
        """The peak of the training process's own tensors: what a simulation counts."""
        update = self.gradients + self.gathered + self.activations
        return self.weights + self.reference + self.optimiser + max(update, self.synced)

    def with_trainer(self, peak: float) -> Memory:
        """The same with another peak of the trainer's tensors: what was not foreseen counts as activations."""
        rest = self.weights + self.reference + self.optimiser + self.gradients + self.gathered
        return replace(self, activations=peak - rest, synced=0.0)

    @property
    def standing(self) -> float:
        """Bytes that are there all the time an update lasts."""
        own = self.weights + self.reference + self.gradients + self.optimiser
        return own + self.engines + self.contexts + self.cache_stays * self.kv_cache

    @property
    def peak(self) -> float:
        if self.cache_stays:
            return self.trainer + self.engines + self.kv_cache + self.contexts
        drawing = self.weights + self.reference + self.optimiser + self.kv_cache
        return max(self.trainer, drawing) + self.engines + self.contexts


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
    trained_bytes = setting.weight_bytes if setting.lora is None else 4  # adapters are float32
    gathered, activations = _update_bytes(model, setting, tokens=microbatch_tokens, chunk_tokens=chunk_tokens)
    return Memory(
        weights=all_weights / parts + (trained * 4 if setting.lora is not None else 0) / parts,
        # adapters that go on from those of an earlier phase are compared with a frozen copy of these
        reference=needs_reference * (all_weights if setting.lora is None else trained * 4) / parts,
        gradients=trained * trained_bytes / parts,
        optimiser=trained * _ADAM / parts,
        gathered=gathered,
        activations=activations,
        synced=2 * model.embedding_parameters * setting.weight_bytes if setting.sharded else 0,
        engines=setting.rollouts.weights(model),
        kv_cache=setting.rollouts.cache(model, hardware),
        contexts=hardware.context_gib * 2**30,
        cache_stays=setting.rollouts.stays,
    )


def _update_bytes(model: Architecture, setting: Setting, *, tokens: int, chunk_tokens: int) -> tuple[float, float]:
    """Gathered weights and gradients, and activations, at whichever of two moments of a backward pass needs more.

    In the head chunks of logits come one after the other; in the last layer the head has its gradient, and FSDP2 has
    gathered the layer before it already. Embedding and head stay gathered for the whole pass.
    """
    size, number = setting.weight_bytes, 2 if setting.weight_bytes == 2 else 4  # residuals have the weights' dtype
    kept: float = model.num_hidden_layers * tokens * model.hidden_size * number
    if not setting.checkpointing:
        kept = (model.num_hidden_layers - 1) * _layer_activations(model, setting, tokens=tokens)
    table = model.embedding_parameters * 4 if setting.lora is None else 0  # the head's gradient
    root = (1 if model.tie_word_embeddings else 2) * model.embedding_parameters * size if setting.sharded else 0
    layer = model.layer_parameters
    trained_layer = 4 * layer if setting.lora is None else 0
    logits = 3 * 4 * chunk_tokens * model.vocab_size  # with their softmax and its gradient
    in_head = (root + 2 * table, kept + logits + 2 * tokens * model.hidden_size * number)
    in_layer = (
        root + table + (2 * layer * size + 2 * trained_layer if setting.sharded else 0) + _cast_bytes(model, setting),
        kept + _layer_activations(model, setting, tokens=tokens),
    )
    return max(in_head, in_layer, key=sum)


def _cast_bytes(model: Architecture, setting: Setting) -> float:
    """Autocast's bf16 copies of float32 weights, kept from the forward pass of a layer to its backward pass."""
    if not setting.mixed or setting.weight_bytes == 2:
        return 0
    return 2 * model.layer_parameters * (1 if setting.checkpointing else model.num_hidden_layers)


def _layer_activations(model: Architecture, setting: Setting, *, tokens: int) -> float:
    """Inputs of every matrix product, norms, rotations and the gate of a layer; norms and rotations are float32."""
    number = 2 if setting.mixed or setting.weight_bytes == 2 else 4
    heads = (2 * model.num_attention_heads + 2 * model.num_key_value_heads) * model.head_dim
    products = tokens * number * (6 * model.hidden_size + heads + 4 * model.intermediate_size)
    return products + tokens * 4 * (4 * model.hidden_size + heads)
