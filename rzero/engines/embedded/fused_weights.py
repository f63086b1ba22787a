"""Weights of Llama-like transformers laid out for the fused decoder.

What is fixed between two syncs is folded into the matrices, so that decoding does not do it again for every token:
norm gains into the projection behind them, the attention scale into the queries, the embedding scale into the table.
Head dimensions of queries and keys are interleaved, which turns the rotary embedding into one complex product and
leaves their dot products unchanged.

Shapes: E model width, H query heads, and in gains key heads behind them, D head width, X heads
side by side, F feed-forward width, V vocabulary.
"""

# ruff: noqa: N815 (fields carry their shape as a suffix, like every other tensor name)

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rzero.engines.embedded.linear import Adapted, Dense, Linear

FAMILIES = ("llama", "qwen2", "qwen3", "gemma3_text")
# Rotary types whose frequencies depend on the length of the sequence cannot be read off once.
_LENGTH_DEPENDENT_ROPE = ("dynamic", "longrope")


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerWeights:
    """Gains are folded in where a projection follows. None: the family has no such."""

    qkv: Linear
    qk_gain_HD: Tensor | None
    out: Linear
    attention_gain_E: Tensor | None
    gate_up: Linear
    down: Linear
    feed_forward_gain_E: Tensor | None
    rope: str
    window: int | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, weakref_slot=True)
class ModelWeights:
    """Everything a forward pass needs. `frequencies` maps a rope name to (frequencies [D/2], scale)."""

    embedding_VE: Tensor
    head: Linear
    layers: tuple[LayerWeights, ...]
    frequencies: Mapping[str, tuple[Tensor, float]]
    query_heads: int
    key_heads: int
    head_width: int
    norm_eps: float
    activation: str
    logit_cap: float | None

    @property
    def dtype(self) -> torch.dtype:
        """Of activations: at least float32, also where the embedding is kept in less."""
        return torch.promote_types(self.embedding_VE.dtype, torch.float32)


def why_not_fused(model: PreTrainedModel, dtype: torch.dtype) -> str | None:
    """None when the fused decoder computes exactly this model in `dtype`, else the reason why it does not."""
    config = model.config
    if dtype != model.dtype or dtype in (torch.bfloat16, torch.float16):
        return f"it decodes float32 policies in float32, this one is {model.dtype} and is to be decoded in {dtype}"
    if config.model_type not in FAMILIES:
        return f"architecture {config.model_type} is not one of {', '.join(FAMILIES)}"
    ropes = config.rope_parameters
    kinds = [ropes["rope_type"]] if "rope_type" in ropes else [rope["rope_type"] for rope in ropes.values() if rope]
    if any(kind in _LENGTH_DEPENDENT_ROPE for kind in kinds):
        return f"rotary embedding of type {kinds} depends on the length of the sequence"
    if getattr(config, "attn_logit_softcapping", None) is not None:
        return "attention scores are soft-capped"
    if getattr(config, "use_bidirectional_attention", False):
        return "attention is bidirectional"
    frequencies = _frequencies(model)
    if any(2 * f.numel() != _head_width(config) for f, _ in frequencies.values()):
        return "the rotary embedding turns only a part of each head"
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """What an adapter adds to a projection [out, in]: `up_OR @ down_RI`, its scale included."""

    down_RI: Tensor
    up_OR: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What of a model is not among its weights. Whoever keeps this keeps no weights of it in memory."""

    config: Any
    embedding_scale: float
    frequencies: Mapping[str, tuple[Tensor, float]]


def shape_of(model: Any) -> Shape:
    gemma = model.config.model_type == "gemma3_text"
    return Shape(
        config=model.config,
        embedding_scale=float(model.model.embed_tokens.embed_scale) if gemma else 1.0,
        frequencies=_frequencies(model),
    )


def arrange(
    shape: Shape,
    weights: Mapping[str, Tensor],
    *,
    linear: Callable[[Tensor, Tensor | None], Linear] = Dense,
    embedding_dtype: torch.dtype | None = None,
) -> ModelWeights:
    """Copies `weights` (Hugging Face names) into the fused layout.

    linear: makes a layer of weights [in, out], of which it keeps no view, and a bias, such as a rounded one.
    embedding_dtype: None for its own. Of the table too nothing is a view: one tensor of a mapped file holds all of it.
    """
    config = shape.config
    embedding_VE = weights["model.embed_tokens.weight"]
    return ModelWeights(
        embedding_VE=(embedding_VE * shape.embedding_scale).to(embedding_dtype or embedding_VE.dtype),
        head=arranged_head(config, weights, linear),
        layers=tuple(arranged_layer(config, weights, index, linear) for index in range(config.num_hidden_layers)),
        frequencies={kind: (f.to(embedding_VE.device), scale) for kind, (f, scale) in shape.frequencies.items()},
        query_heads=config.num_attention_heads,
        key_heads=config.num_key_value_heads,
        head_width=_head_width(config),
        norm_eps=config.rms_norm_eps,
        activation=config.hidden_activation if config.model_type == "gemma3_text" else config.hidden_act,
        logit_cap=getattr(config, "final_logit_softcapping", None),
    )


def with_deltas(
    arranged: ModelWeights, config: Any, weights: Mapping[str, Tensor], deltas: Mapping[str, Delta]
) -> ModelWeights:
    """Returns `arranged` with adapters beside its matrices; these are shared, not copied.

    weights: those that were arranged, for the gains. deltas: by the name of the module, such as
    model.layers.0.self_attn.q_proj. Raises ValueError for one that has no place in the fused layout.
    """
    left = dict(deltas)
    layers = tuple(
        _adapted_layer(layer, config, weights, f"model.layers.{index}.", left)
        for index, layer in enumerate(arranged.layers)
    )
    gain_E = _gain(weights["model.norm.weight"], gemma=config.model_type == "gemma3_text")
    head = _beside(arranged.head, [left.pop("lm_head", None)], gain_I=gain_E)
    if left:
        raise ValueError(f"adapters on {sorted(left)[:3]} cannot act beside rounded weights; use engine.dtype=null")
    return replace(arranged, layers=layers, head=head)


def _adapted_layer(
    layer: LayerWeights, config: Any, weights: Mapping[str, Tensor], prefix: str, left: dict[str, Delta]
) -> LayerWeights:
    gemma, width = config.model_type == "gemma3_text", _head_width(config)
    q, k, v, out = (left.pop(f"{prefix}self_attn.{name}_proj", None) for name in "qkvo")
    gate, up, down = (left.pop(f"{prefix}mlp.{name}_proj", None) for name in ("gate", "up", "down"))
    scale = _attention_scale(config) if layer.qk_gain_HD is None else 1.0
    q, k = (
        delta and replace(delta, up_OR=delta.up_OR[_interleaved(heads, width)] * factor)
        for delta, heads, factor in ((q, config.num_attention_heads, scale), (k, config.num_key_value_heads, 1.0))
    )
    before_mlp = "pre_feedforward_layernorm.weight" if gemma else "post_attention_layernorm.weight"
    heads = [config.num_attention_heads * width, *[config.num_key_value_heads * width] * 2]
    attention_gain_E = _gain(weights[f"{prefix}input_layernorm.weight"], gemma=gemma)
    mlp_gain_E = _gain(weights[prefix + before_mlp], gemma=gemma)
    return replace(
        layer,
        qkv=_beside(layer.qkv, [q, k, v], gain_I=attention_gain_E, widths=heads),
        out=_beside(layer.out, [out]),
        gate_up=_beside(layer.gate_up, [gate, up], gain_I=mlp_gain_E, widths=[config.intermediate_size] * 2),
        down=_beside(layer.down, [down]),
    )


def _beside(
    below: Linear, deltas: Sequence[Delta | None], *, gain_I: Tensor | None = None, widths: Sequence[int] = (0,)
) -> Linear:
    """Adapters of projections whose outputs, `widths` wide, stand side by side; None: that one has no adapter."""
    present = [delta for delta in deltas if delta is not None]
    if not present:
        return below
    down_KI = torch.cat([delta.down_RI for delta in present])
    blocks = [
        present[0].up_OR.new_zeros(0, width) if delta is None else delta.up_OR.t()
        for delta, width in zip(deltas, widths, strict=True)
    ]
    down_IK = (down_KI if gain_I is None else down_KI * gain_I).t().contiguous()
    return Adapted(below, down_IK, torch.block_diag(*blocks).contiguous())


def arranged_head(
    config: Any, weights: Mapping[str, Tensor], linear: Callable[[Tensor, Tensor | None], Linear]
) -> Linear:
    """Returns the output layer alone, as `arrange` makes it."""
    head_VE = weights["model.embed_tokens.weight" if config.tie_word_embeddings else "lm_head.weight"]
    gain_E = _gain(weights["model.norm.weight"], gemma=config.model_type == "gemma3_text")
    return linear((head_VE * gain_E).t(), None)


def input_widths(config: Any) -> dict[str, int]:
    """Returns what each product of a layer takes, by its name in `LayerWeights`."""
    width: int = config.hidden_size
    heads = config.num_attention_heads * _head_width(config)
    return {"qkv": width, "out": heads, "gate_up": width, "down": config.intermediate_size}


def arranged_layer(
    config: Any, weights: Mapping[str, Tensor], index: int, linear: Callable[[Tensor, Tensor | None], Linear]
) -> LayerWeights:
    """Returns one layer alone, as `arrange` makes it."""
    prefix, gemma = f"model.layers.{index}.", config.model_type == "gemma3_text"

    def get(name: str) -> Tensor | None:
        return weights.get(prefix + name)

    def gain(name: str) -> Tensor:
        return _gain(weights[prefix + name], gemma=gemma)

    heads, width = config.num_attention_heads, _head_width(config)
    scale, qk_gain_HD = _attention_scale(config), None
    if get("self_attn.q_norm.weight") is not None:
        order = _interleaved(1, width)
        q_gain_D, k_gain_D = gain("self_attn.q_norm.weight")[order], gain("self_attn.k_norm.weight")[order]
        qk_gain_HD = torch.stack([q_gain_D * scale] * heads + [k_gain_D] * config.num_key_value_heads)
    query_scale = scale if qk_gain_HD is None else 1.0  # behind a norm the scale must go into its gain
    projection_XE = _stack_qkv(config, weights, prefix, "weight", query_scale=query_scale)
    gate_up_FE = torch.cat([weights[prefix + "mlp.gate_proj.weight"], weights[prefix + "mlp.up_proj.weight"]])
    before_mlp = "pre_feedforward_layernorm.weight" if gemma else "post_attention_layernorm.weight"
    qkv_bias_X = gate_up_bias_F = None
    if get("self_attn.q_proj.bias") is not None:
        qkv_bias_X = _stack_qkv(config, weights, prefix, "bias", query_scale=query_scale)
    if get("mlp.gate_proj.bias") is not None:
        gate_up_bias_F = torch.cat([weights[prefix + f"mlp.{n}_proj.bias"] for n in ("gate", "up")])
    layer_type = config.layer_types[index] if getattr(config, "layer_types", None) else "full_attention"
    return LayerWeights(
        qkv=linear((projection_XE * gain("input_layernorm.weight")).t(), qkv_bias_X),
        qk_gain_HD=qk_gain_HD,
        out=linear(weights[prefix + "self_attn.o_proj.weight"].t(), _copy(get("self_attn.o_proj.bias"))),
        attention_gain_E=gain("post_attention_layernorm.weight") if gemma else None,
        gate_up=linear((gate_up_FE * gain(before_mlp)).t(), gate_up_bias_F),
        down=linear(weights[prefix + "mlp.down_proj.weight"].t(), _copy(get("mlp.down_proj.bias"))),
        feed_forward_gain_E=gain("post_feedforward_layernorm.weight") if gemma else None,
        rope=layer_type if gemma else "default",
        window=config.sliding_window if layer_type == "sliding_attention" else None,
    )


def _attention_scale(config: Any) -> float:
    gemma = config.model_type == "gemma3_text"
    scale: float = (config.query_pre_attn_scalar if gemma else _head_width(config)) ** -0.5
    return scale


def _stack_qkv(config: Any, weights: Mapping[str, Tensor], prefix: str, kind: str, *, query_scale: float) -> Tensor:
    """Query, key and value projections (or biases) on top of one another, heads of q and k interleaved."""
    q, k, v = (weights[f"{prefix}self_attn.{name}_proj.{kind}"] for name in "qkv")
    width = _head_width(config)
    q = q[_interleaved(config.num_attention_heads, width)] * query_scale
    return torch.cat([q, k[_interleaved(config.num_key_value_heads, width)], v])


def _interleaved(heads: int, width: int) -> Tensor:
    """Row order that puts dimension i next to dimension i + width/2, its partner in the rotation."""
    within = torch.arange(width).view(2, width // 2).t().reshape(-1)
    return (torch.arange(heads)[:, None] * width + within).reshape(-1)


def _frequencies(model: Any) -> dict[str, tuple[Tensor, float]]:
    """Returns copies on the CPU."""
    rotary = model.model.rotary_emb
    kinds = {"default": ""} if hasattr(rotary, "inv_freq") else {kind: f"{kind}_" for kind in rotary.layer_types}
    return {
        kind: (
            getattr(rotary, f"{prefix}inv_freq").detach().cpu().float().clone(),
            float(getattr(rotary, f"{prefix}attention_scaling")),
        )
        for kind, prefix in kinds.items()
    }


def _head_width(config: Any) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def _gain(weight: Tensor, *, gemma: bool) -> Tensor:
    return weight + 1.0 if gemma else weight.clone()


def _copy(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.clone()
