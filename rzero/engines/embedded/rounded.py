"""Rollouts in int8 on a CPU: one rounded base for all engines of the process, adapters beside it in float32.

The base is rounded when an engine first meets it and shared by whoever samples over the same weights, so that
Challenger and frozen Solver hold it once. A sync then moves the adapters alone. Without adapters all weights are
rounded at each sync.

Rounding hides small faults from a comparison of log-probs, so weights are compared themselves: the base by its sha256,
adapters value by value, and each layer by what it makes of the policy's own hidden states.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rzero.adapters import unwrap_adapters
from rzero.engines.embedded.fused import FusedDecoder, FusedSession
from rzero.engines.embedded.fused_weights import Delta, ModelWeights, arrange, shape_of, why_not_fused, with_deltas
from rzero.engines.embedded.linear import Adapted, Rounded, exact_products
from rzero.engines.verification import probe_prompts
from rzero.gathering import model_parts, sha256_of
from rzero.modes import in_mode
from rzero.policy import Policy

LAYER_TOLERANCE = 0.5
"""Largest error of a layer's update, as a share of the update (norms over a probe). Rounding makes a few percent of it;
a layer of other weights makes 1 or more."""
LOGITS_TOLERANCE = 0.3
"""The same for logits, each row about its mean."""

_bases: weakref.WeakValueDictionary[str, ModelWeights] = weakref.WeakValueDictionary()


def why_not_rounded(model: PreTrainedModel, device: torch.device) -> str | None:
    """None when rollouts of this model can be drawn in int8, else the reason why not."""
    if device.type != "cpu":
        return f"int8 rollouts are computed on CPUs, this engine draws on {device.type}"
    if not exact_products():
        return "this machine's int8 products are not exact (an old CPU, or torch without oneDNN)"
    return why_not_fused(model, model.dtype)


class RoundedDecoder:
    """A `Follower` (`rzero.engines.embedded.decoder`) that rounds a policy."""

    def __init__(self, fused: FusedDecoder) -> None:
        self._fused = fused
        self._base_hash = ""
        self._base: ModelWeights | None = None

    def take(self, policy: Policy) -> None:
        model = unwrap_adapters(policy.model)
        base = base_weights(model)
        self._base_hash = sha256_of(base)
        self._base = _bases.get(self._base_hash)
        if self._base is None:
            self._base = _bases[self._base_hash] = _rounded(model, base)
        self._fused.use(with_deltas(self._base, model.config, base, deltas(model)))

    def start(
        self, prompts: Sequence[Sequence[int]], *, prompt_of_row: Sequence[int], max_new: int
    ) -> tuple[FusedSession, Tensor]:
        return self._fused.start(prompts, prompt_of_row=prompt_of_row, max_new=max_new)

    @torch.no_grad()
    def verify(self, policy: Policy) -> None:
        """Raises RuntimeError when what is decoded with is not `policy` up to rounding."""
        if sha256_of(base_weights(unwrap_adapters(policy.model))) != self._base_hash:
            raise RuntimeError("the engine's rounded base comes from other weights than the policy's")
        self.compare(policy)

    @torch.no_grad()
    def compare(self, policy: Policy) -> None:
        """The same for a base that has just been hashed, which takes as long as drawing dozens of tokens."""
        weights = self._fused.weights
        assert weights is not None
        assert self._base is not None
        model = unwrap_adapters(policy.model)
        base = base_weights(model)
        expected = with_deltas(self._base, model.config, base, deltas(model))
        if not all(_equal_adapters(*pair) for pair in zip(_linears(expected), _linears(weights), strict=True)):
            raise RuntimeError("the engine's adapters are not the policy's: its weights are stale")
        for part, error in errors(weights, policy):
            limit = LOGITS_TOLERANCE if part == "the output layer" else LAYER_TOLERANCE
            if not error <= limit:
                raise RuntimeError(
                    f"{part} of the engine is off by {error:.2g} of its effect (rounding to int8 explains {limit}): "
                    "its weights are not the policy's"
                )


def base_weights(model: PreTrainedModel) -> dict[str, Tensor]:
    """Returns a model's weights under their Hugging Face names without its adapters; nothing is copied."""
    return {name: part.gather() for part in model_parts(model, with_adapters=False) for name in part.names}


def deltas(model: PreTrainedModel) -> dict[str, Delta]:
    """Returns the active adapters by the name of their module, and nothing where all weights are trained."""
    found = {}
    for name, module in model.named_modules():
        layer: Any = module
        if not hasattr(layer, "lora_A"):
            continue
        [adapter] = layer.active_adapters
        if adapter not in layer.lora_A:
            raise ValueError(f"adapters on {name} cannot act beside rounded weights; use engine.dtype=null")
        up_OR = layer.lora_B[adapter].weight.detach() * layer.scaling[adapter]
        found[name] = Delta(down_RI=layer.lora_A[adapter].weight.detach(), up_OR=up_OR)
    return found


def _rounded(model: PreTrainedModel, base: Mapping[str, Tensor]) -> ModelWeights:
    # bfloat16 holds an embedding, which no product rounds again, finer than int8 would
    return arrange(shape_of(model), base, linear=Rounded, embedding_dtype=torch.bfloat16)


def _linears(weights: ModelWeights) -> Iterator[object]:
    for layer in weights.layers:
        yield from (layer.qkv, layer.out, layer.gate_up, layer.down)
    yield weights.head


def _equal_adapters(one: object, other: object) -> bool:
    if not isinstance(one, Adapted) or not isinstance(other, Adapted):
        return type(one) is type(other)
    return torch.equal(one.down_IK, other.down_IK) and torch.equal(one.up_KO, other.up_KO)


@torch.no_grad()
def errors(weights: ModelWeights, policy: Policy) -> Iterator[tuple[str, float]]:
    """Yields the error of each part when it is given the policy's own hidden states on a probe.

    Shapes: T tokens of the probe, E model width, V vocabulary.
    """
    probe_1T = torch.tensor([max(probe_prompts(policy), key=len)])
    with _hidden_states(unwrap_adapters(policy.model)) as states_1TE:
        logits_TV = policy.model(input_ids=probe_1T, use_cache=False).logits[0]
    session = FusedSession(
        weights, prompt_lengths=[probe_1T.shape[1]], prompt_of_row=[0], max_new=1, first_capacity=1,
        prefill_tokens=probe_1T.shape[1],
    )  # fmt: skip
    yield "the embedding", _relative(session.embed(probe_1T), states_1TE[0])
    for number in range(len(weights.layers)):
        given_1TE, expected_1TE = states_1TE[number : number + 2]
        update_1TE = session.read_layer(number, given_1TE) - given_1TE
        yield f"layer {number}", _relative(update_1TE, expected_1TE - given_1TE)
    centred = [x - x.mean(-1, keepdim=True) for x in (session.head(states_1TE[-1][0]), logits_TV)]
    yield "the output layer", _relative(*centred)


def _relative(own: Tensor, expected: Tensor) -> float:
    """Norm of the difference over the norm of what is expected."""
    return float((own - expected).norm() / expected.norm())


@contextmanager
def _hidden_states(model: Any) -> Iterator[list[Tensor]]:
    """Collects what each layer is given, and what the last one makes of it, in the next forward pass."""
    states: list[Tensor] = []

    def keep(module: nn.Module, inputs: object, output: Any) -> None:
        states.append((output if isinstance(output, Tensor) else output[0]).detach().clone())

    handles = [module.register_forward_hook(keep) for module in (model.model.embed_tokens, *model.model.layers)]
    try:
        with in_mode(model, training=False):
            yield states
    finally:
        for handle in handles:
            handle.remove()
