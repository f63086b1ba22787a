"""Log-probabilities and entropies of completion tokens, without a `[B, T, V]` tensor.

The backbone runs over the whole sequence, but only hidden states that predict a completion token meet the
language-model head, a chunk of tokens at a time; where the head is trained, the backward pass computes each chunk's
logits again. Peak memory is then a few chunks of logits, whatever the length of the batch.

Shapes: B rows of a micro-batch, T positions, S scored tokens, U those of one chunk, E model width, V vocabulary.
"""
# ruff: noqa: N815 - a record's fields carry the shape suffix too

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PretrainedConfig, PreTrainedModel

from rzero.modules.shared_prompts import SharedPrompts
from rzero.policy import unwrap_adapters

WIDE = 16384
"""Tokens from which a vocabulary's softmax goes through a CPU's memory a few rows at a time: they stay in the cache
between the passes over them, a whole chunk would not, and two more tensors of its size are not made."""
BLOCK = 2**19  # elements of those rows, 2 MB in float32
_NEVER = -1e30
KEEP_LOGITS_BELOW = 2**22  # S x V elements (16 MB in float32): cheaper to keep for backward than to compute twice


def completion_logprobs(
    model: nn.Module,
    input_ids_BT: Tensor,
    completion_mask_BT: Tensor,
    *,
    temperature: float,
    chunk_tokens: int,
    entropy: bool = False,
    prompts: Sequence[int] | None = None,
    dropped_BV: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """log p(token | everything before it) in nats for the tokens under `completion_mask_BT`, and their entropies.

    Both results are float32 (B, T), aligned with `input_ids_BT`, and 0 outside the mask. The distribution is that of
    `logits / temperature`. `entropy=False` gives None in its place. Gradients reach every parameter that requires them.

    `model`: a causal language model of transformers, bare, wrapped by PEFT, or sharded by FSDP2 (`fully_shard`).
    Rows are padded on the right, where causal attention keeps padding from being seen: no mask is needed, and without
    one the fused kernel runs.
    `chunk_tokens`: how many rows of V logits exist at once; affects memory and speed only.
    `prompts`: equal numbers (B,) say that rows have the same prompt, which then goes through the model once
    (call `rzero.modules.shared_prompts.make_ready` before). Rows are then a prompt and, right behind it, a completion.
    `dropped_BV`: tokens that rows were drawn without: the distribution is that over the others.
    Raises ValueError when the mask names the first position, which nothing predicts.
    """
    if temperature <= 0:
        raise ValueError(f"log-probabilities need a positive temperature, got {temperature}")
    if chunk_tokens < 1:
        raise ValueError(f"chunk_tokens must be at least 1, got {chunk_tokens}")
    scored_BT = completion_mask_BT != 0
    if bool(scored_BT[:, 0].any()):
        raise ValueError("completion_mask covers the first position, which no token predicts: the prompt is empty")

    causal_lm: PreTrainedModel = unwrap_adapters(model)
    row_S, column_S = scored_BT.nonzero(as_tuple=True)
    layout: PaddedRows | SharedPrompts = PaddedRows(input_ids_BT)
    if prompts is not None:
        layout = SharedPrompts(input_ids_BT, completion_mask_BT=scored_BT, prompts=prompts)

    def forward(**inputs: Tensor) -> tuple[Tensor, Tensor | None]:
        return head_logprobs(
            layout.hidden(causal_lm, inputs, row_S=row_S, column_S=column_S - 1),
            weight_VE=head_weight(causal_lm),
            targets_S=input_ids_BT[row_S, column_S],
            shape=LogitShape.of(causal_lm.config.get_text_config(), temperature=temperature),
            chunk_tokens=chunk_tokens,
            entropy=entropy,
            dropped=None if dropped_BV is None else Dropped(tokens_BV=dropped_BV, row_S=row_S),
        )

    with _forward_replaced(causal_lm, forward):
        logp_S, entropy_S = model(**layout.inputs)
    blank_BT = logp_S.new_zeros(scored_BT.shape)
    logp_BT = blank_BT.index_put((row_S, column_S), logp_S)
    return logp_BT, blank_BT.index_put((row_S, column_S), entropy_S) if entropy_S is not None else None


class PaddedRows:
    """Each row of a micro-batch on its own, as `SharedPrompts` is not: what goes into a model and comes out of it."""

    def __init__(self, input_ids_BT: Tensor) -> None:
        self.inputs = {"input_ids": input_ids_BT}

    def hidden(
        self, causal_lm: PreTrainedModel, inputs: Mapping[str, Tensor], *, row_S: Tensor, column_S: Tensor
    ) -> Tensor:
        """Last hidden states (S, E) at the given places of the padded rows. `inputs`: ours, after FSDP's hooks."""
        decoder = causal_lm.get_decoder()
        hidden_BTE: Tensor = decoder(input_ids=inputs["input_ids"], use_cache=False).last_hidden_state
        return hidden_BTE[row_S, column_S]


@dataclass(frozen=True, slots=True, kw_only=True)
class LogitShape:
    """The change of raw head outputs x before the softmax: cap * tanh(scale x / cap) / temperature."""

    scale: float = 1.0
    cap: float | None = None
    temperature: float = 1.0

    @classmethod
    def of(cls, config: PretrainedConfig, *, temperature: float) -> LogitShape:
        """Scale and cap as a model's config states them (Gemma caps, Granite divides, Cohere and Falcon multiply)."""
        scale = getattr(config, "logit_scale", None) or getattr(config, "lm_head_multiplier", None) or 1.0
        scale /= getattr(config, "logits_scaling", None) or 1.0
        cap = getattr(config, "final_logit_softcapping", None)
        return cls(scale=float(scale), cap=None if cap is None else float(cap), temperature=temperature)

    def apply_(self, x_UV: Tensor) -> Tensor:
        """Shaped logits; overwrites `x_UV`."""
        if self.cap is None:
            factor = self.scale / self.temperature
            return x_UV if factor == 1.0 else x_UV.mul_(factor)
        return x_UV.mul_(self.scale / self.cap).tanh_().mul_(self.cap / self.temperature)

    def backward_(self, gradient_UV: Tensor, *, logits_UV: Tensor | None) -> Tensor:
        """Gradient with respect to x, given that with respect to the shaped logits; overwrites `gradient_UV`.

        `logits_UV` are the shaped logits, read only where there is a cap.
        """
        if (
            self.cap is not None and logits_UV is not None
        ):  # d tanh(u) = 1 - tanh(u)^2, and tanh(u) = logits * temperature / cap
            tanh_UV = logits_UV * (self.temperature / self.cap)
            gradient_UV.mul_(tanh_UV.square_().neg_().add_(1.0))
        factor = self.scale / self.temperature
        return gradient_UV if factor == 1.0 else gradient_UV.mul_(factor)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Dropped:
    """Tokens that rows were drawn without, and the row of each scored token."""

    tokens_BV: Tensor
    row_S: Tensor

    def masked(self, logits_UV: Tensor, *, chunk: slice) -> Tensor:
        """Returns the logits of a chunk, those of dropped tokens so low that no probability is left.

        They stay finite: probability 0 times minus infinity, as in an entropy, would be no number.
        """
        return logits_UV.masked_fill(self.tokens_BV[self.row_S[chunk]], _NEVER)


def head_logprobs(
    hidden_SE: Tensor,
    *,
    weight_VE: Tensor,
    targets_S: Tensor,
    shape: LogitShape,
    chunk_tokens: int,
    entropy: bool,
    dropped: Dropped | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Float32 log-probabilities of `targets_S` (S,) and, if asked, entropies (S,) under softmax(shape(h @ W.T))."""
    # One dtype for both factors, chosen outside so that the cast is differentiated; autocast stays out of the chunks.
    with torch.autocast(hidden_SE.device.type, enabled=False):
        logp_S, entropy_S = _HeadLogprobs.apply(
            hidden_SE, weight_VE.to(hidden_SE.dtype), targets_S, shape, chunk_tokens, entropy, dropped
        )
    return logp_S, entropy_S if entropy else None


class _HeadLogprobs(torch.autograd.Function):
    """Log-probabilities and entropies of a softmax by chunks of tokens; backward computes each chunk's logits again.

    A head that nobody trains, as under adapters, needs that for entropies alone: a log-probability is one number, so
    forward finds what its gradient says of the hidden state while it has the logits, and backward scales it. That saves
    one product with the vocabulary of three.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_SE: Tensor,
        weight_VE: Tensor,
        targets_S: Tensor,
        shape: LogitShape,
        chunk_tokens: int,
        entropy: bool,
        dropped: Dropped | None,
    ) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        small = hidden_SE.shape[0] * weight_VE.shape[0] <= KEEP_LOGITS_BELOW
        keep = small and shape.cap is None and any(ctx.needs_input_grad)  # with a cap, backward needs logits as well
        kept = []
        sloped = ctx.needs_input_grad[0] and not ctx.needs_input_grad[1] and not keep
        slope_SE = torch.empty_like(hidden_SE if sloped else hidden_SE[:0])
        logp_S = hidden_SE.new_empty(hidden_SE.shape[0], dtype=_wide(hidden_SE.dtype))
        entropy_S = torch.zeros_like(logp_S)

        def score(rows: slice) -> None:
            """A function of its own: what it made is gone before the next chunk's logits are there."""
            logits_UV = _logits(hidden_SE[rows], weight_VE, shape=shape)
            for block, inside in _blocks(logits_UV, first=rows.start, whole=keep):
                logq_UV = _logq(logits_UV[block], dropped=dropped, chunk=inside)
                logp_S[inside] = logq_UV.gather(1, targets_S[inside, None]).squeeze(1)
                if entropy:
                    entropy_S[inside] = -logq_UV.exp().mul_(logq_UV).sum(dim=1)
                if keep:
                    kept.append(logq_UV)
                if sloped:
                    part_UV = _softmax_gradient(
                        logq_UV,
                        targets_U=targets_S[inside],
                        logp_grad_U=torch.ones_like(logp_S[inside]),
                        entropy_grad_U=None,
                        entropy_U=entropy_S[inside],
                    )
                    part_UV = shape.backward_(part_UV, logits_UV=logits_UV[block])
                    logits_UV = _replaced(logits_UV, block, part_UV)
            if sloped:
                torch.mm(logits_UV.to(hidden_SE.dtype), weight_VE, out=slope_SE[rows])

        for rows in _chunks(hidden_SE.shape[0], chunk_tokens):
            score(rows)
        ctx.save_for_backward(hidden_SE, weight_VE, targets_S, entropy_S, slope_SE, *kept)
        ctx.shape, ctx.chunk_tokens, ctx.dropped, ctx.sloped = shape, chunk_tokens, dropped, sloped
        return logp_S, entropy_S

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        logp_grad_S, entropy_grad_S = gradients
        hidden_SE, weight_VE, targets_S, entropy_S, slope_SE, *kept = ctx.saved_tensors
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        if ctx.sloped and entropy_grad_S is None:
            scaled_SE = None if logp_grad_S is None else (slope_SE * logp_grad_S[:, None]).to(hidden_SE.dtype)
            return scaled_SE, None, None, None, None, None, None
        hidden_grad_SE = torch.empty_like(hidden_SE) if needs_hidden else None
        # A sum over chunks: in float32 even where the weights are bfloat16.
        weight_grad_VE = torch.zeros_like(weight_VE, dtype=_wide(weight_VE.dtype)) if needs_weight else None

        def add_gradients(index: int, rows: slice) -> None:
            # logits make room for their gradient, block by block
            gradient_UV = kept[index] if kept else _logits(hidden_SE[rows], weight_VE, shape=ctx.shape)
            for block, inside in _blocks(gradient_UV, first=rows.start, whole=bool(kept)):
                logits_UV = None if kept else gradient_UV[block]
                part_UV = _softmax_gradient(
                    kept[index] if logits_UV is None else _logq(logits_UV, dropped=ctx.dropped, chunk=inside),
                    targets_U=targets_S[inside],
                    logp_grad_U=None if logp_grad_S is None else logp_grad_S[inside],
                    entropy_grad_U=None if entropy_grad_S is None else entropy_grad_S[inside],
                    entropy_U=entropy_S[inside],
                )
                part_UV = ctx.shape.backward_(part_UV, logits_UV=logits_UV)
                gradient_UV = _replaced(gradient_UV, block, part_UV)
            gradient_UV = gradient_UV.to(hidden_SE.dtype)
            if hidden_grad_SE is not None:
                torch.mm(gradient_UV, weight_VE, out=hidden_grad_SE[rows])
            if weight_grad_VE is not None:
                weight_grad_VE.add_(gradient_UV.t() @ hidden_SE[rows])

        for index, rows in enumerate(_chunks(hidden_SE.shape[0], ctx.chunk_tokens)):
            add_gradients(index, rows)
        if weight_grad_VE is not None:
            weight_grad_VE = weight_grad_VE.to(weight_VE.dtype)
        return hidden_grad_SE, weight_grad_VE, None, None, None, None, None


def _logits(hidden_UE: Tensor, weight_VE: Tensor, *, shape: LogitShape) -> Tensor:
    raw_UV = hidden_UE @ weight_VE.t()
    return shape.apply_(raw_UV.to(_wide(raw_UV.dtype)))


def _logq(logits_UV: Tensor, *, dropped: Dropped | None, chunk: slice) -> Tensor:
    return F.log_softmax(logits_UV if dropped is None else dropped.masked(logits_UV, chunk=chunk), dim=1)


def _softmax_gradient(
    logq_UV: Tensor, *, targets_U: Tensor, logp_grad_U: Tensor | None, entropy_grad_U: Tensor | None, entropy_U: Tensor
) -> Tensor:
    """Gradient with respect to logits z, from p = softmax(z), H its entropy and a the target:

    d log p_a / dz = onehot(a) - p and d H / dz = -p (log p + H).
    """
    gradient_UV = logq_UV.exp()
    factor_U = -logp_grad_U if logp_grad_U is not None else torch.zeros_like(entropy_U)
    if entropy_grad_U is None:
        gradient_UV.mul_(factor_U[:, None])
    else:
        slope_UV = (logq_UV + entropy_U[:, None]).mul_(-entropy_grad_U[:, None])
        gradient_UV.mul_(slope_UV.add_(factor_U[:, None]))
    if logp_grad_U is not None:
        gradient_UV.scatter_add_(1, targets_U[:, None], logp_grad_U[:, None])
    return gradient_UV


def _replaced(x_UV: Tensor, block: slice, part_UV: Tensor) -> Tensor:
    """Returns x with some rows replaced, in place unless they are all of them."""
    if len(part_UV) == len(x_UV):
        return part_UV
    x_UV[block] = part_UV
    return x_UV


def _chunks(total: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, total)) for start in range(0, total, size))


def _blocks(x_UV: Tensor, *, first: int, whole: bool) -> Iterator[tuple[slice, slice]]:
    """Rows of a chunk whose first row is number `first` of all, as slices of the chunk and of all.

    On GPUs, for which fake tensors stand, that is the whole chunk: there a call costs more than a pass through memory.
    """
    rows, vocabulary = x_UV.shape
    cached = x_UV.device.type == "cpu" and type(x_UV) is Tensor and vocabulary >= WIDE and not whole
    for block in _chunks(rows, max(1, BLOCK // vocabulary) if cached else max(1, rows)):
        yield block, slice(first + block.start, first + block.stop)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


@contextmanager
def _forward_replaced(module: nn.Module, forward: Callable[..., object]) -> Iterator[None]:
    """Let `module` run another forward for a while.

    The outermost model can then be called as usual and every hook on the way in runs: FSDP gathers parameters in one.
    """
    had_own = "forward" in vars(module)
    original = module.forward
    module.forward = forward
    try:
        yield
    finally:
        if had_own:
            module.forward = original
        else:
            del module.forward


def head_weight(causal_lm: PreTrainedModel) -> Tensor:
    head = causal_lm.get_output_embeddings()
    if type(head) is not nn.Linear or head.bias is not None:
        raise ValueError(
            f"the language-model head must be a plain linear layer without bias, got {head}: leave it out of the "
            "adapter's target_modules"
        )
    weight: Tensor = head.weight
    return weight
