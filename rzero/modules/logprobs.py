"""Log-probabilities and entropies of completion tokens, without a `[B, T, V]` tensor.

The backbone runs over the whole sequence, but only hidden states that predict a completion token meet the
language-model head, a chunk of tokens at a time; the backward pass computes each chunk's logits again. Peak memory is
then a few chunks of logits, whatever the length of the batch.

Shapes: B sequences, T positions, S scored tokens, H hidden size, V vocabulary, C tokens of one chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rzero.modules.shared_prompts import SharedPrompts, causal_lm_of

KEEP_LOGITS_BELOW = 2**22  # S x V elements (16 MB in float32): cheaper to keep for backward than to compute twice
_NO_MASK = torch.zeros(1, 1, 1, 1)  # transformers hands a mask of four dimensions on as it is and makes none of its own


def completion_logprobs(
    model: nn.Module,
    input_ids_BT: Tensor,
    attention_mask_BT: Tensor | None,
    completion_mask_BT: Tensor,
    *,
    temperature: float,
    chunk_tokens: int,
    entropy: bool = False,
    position_ids_BT: Tensor | None = None,
    prompts: Sequence[int] | None = None,
) -> tuple[Tensor, Tensor | None]:
    """log p(token | everything before it) in nats for the tokens under `completion_mask_BT`, and their entropies.

    Both results are float32 (B, T), aligned with `input_ids_BT`, and 0 outside the mask. The distribution is that of
    `logits / temperature`. `entropy=False` gives None in its place. Gradients reach every parameter that requires them.

    `model`: a causal language model of transformers, bare, wrapped by PEFT, or sharded by FSDP2 (`fully_shard`).
    `chunk_tokens`: how many rows of V logits exist at once; affects memory and speed only.
    `prompts`: equal numbers (B,) say that rows have the same prompt, which then goes through the model once
    (call `rzero.modules.shared_prompts.make_ready` before). Rows are then a prompt and, right behind it, a completion.
    Raises ValueError when the mask names the first position, which nothing predicts.
    """
    if temperature <= 0:
        raise ValueError(f"log-probabilities need a positive temperature, got {temperature}")
    if chunk_tokens < 1:
        raise ValueError(f"chunk_tokens must be at least 1, got {chunk_tokens}")
    scored_BT = completion_mask_BT != 0
    if bool(scored_BT[:, 0].any()):
        raise ValueError("completion_mask covers the first position, which no token predicts: the prompt is empty")

    causal_lm = causal_lm_of(model)
    row_S, column_S = scored_BT.nonzero(as_tuple=True)

    inputs = {"input_ids": input_ids_BT, "attention_mask": attention_mask_BT, "position_ids": position_ids_BT}
    shared = None
    if prompts is not None:
        shared = SharedPrompts(input_ids_BT, completion_mask_BT=scored_BT, prompts=prompts)
        inputs = {"input_ids": shared.ids_1N, "attention_mask": None, "position_ids": shared.positions_1N}
    elif attention_mask_BT is not None and _padded_right(attention_mask_BT):
        # Causal attention already keeps padding on the right from being seen, and without a mask the fused kernel runs.
        inputs["attention_mask"] = None

    def forward(**given: Any) -> tuple[Tensor, Tensor | None]:
        given = {name: given[name] for name in inputs}
        if shared is not None:
            given |= {"shared_prompts": shared, "attention_mask": _NO_MASK}
        hidden_BTH = causal_lm.get_decoder()(**given, use_cache=False).last_hidden_state
        if shared is not None:
            shared.check(causal_lm)
            hidden_SH = hidden_BTH[0, shared.place_BT[row_S, column_S - 1]]
        else:
            hidden_SH = hidden_BTH[row_S, column_S - 1]
        return head_logprobs(
            hidden_SH,
            weight_VH=_head_weight(causal_lm),
            targets_S=input_ids_BT[row_S, column_S],
            shape=LogitShape.of(causal_lm, temperature=temperature),
            chunk_tokens=chunk_tokens,
            entropy=entropy,
        )

    with _forward_replaced(causal_lm, forward):
        logp_S, entropy_S = model(**inputs)
    blank_BT = logp_S.new_zeros(scored_BT.shape)
    logp_BT = blank_BT.index_put((row_S, column_S), logp_S)
    return logp_BT, blank_BT.index_put((row_S, column_S), entropy_S) if entropy_S is not None else None


@dataclass(frozen=True, slots=True, kw_only=True)
class LogitShape:
    """What happens to raw head outputs x before the softmax: cap * tanh(scale x / cap) / temperature."""

    scale: float = 1.0
    cap: float | None = None
    temperature: float = 1.0

    @classmethod
    def of(cls, causal_lm: Any, *, temperature: float) -> LogitShape:
        """Scale and cap as the model's config states them (Gemma caps, Granite divides, Cohere and Falcon multiply)."""
        config = causal_lm.config.get_text_config()
        scale = getattr(config, "logit_scale", None) or getattr(config, "lm_head_multiplier", None) or 1.0
        scale /= getattr(config, "logits_scaling", None) or 1.0
        cap = getattr(config, "final_logit_softcapping", None)
        return cls(scale=float(scale), cap=None if cap is None else float(cap), temperature=temperature)

    def apply_(self, x_CV: Tensor) -> Tensor:
        """Shaped logits; overwrites `x_CV`."""
        if self.cap is None:
            factor = self.scale / self.temperature
            return x_CV if factor == 1.0 else x_CV.mul_(factor)
        return x_CV.mul_(self.scale / self.cap).tanh_().mul_(self.cap / self.temperature)

    def backward_(self, gradient_CV: Tensor, *, logits_CV: Tensor | None) -> Tensor:
        """Gradient with respect to x, given that with respect to the shaped logits; overwrites `gradient_CV`.

        `logits_CV` are the shaped logits, read only where there is a cap.
        """
        if (
            self.cap is not None and logits_CV is not None
        ):  # d tanh(u) = 1 - tanh(u)^2, and tanh(u) = logits * temperature / cap
            tanh_CV = logits_CV * (self.temperature / self.cap)
            gradient_CV.mul_(tanh_CV.square_().neg_().add_(1.0))
        factor = self.scale / self.temperature
        return gradient_CV if factor == 1.0 else gradient_CV.mul_(factor)


def head_logprobs(
    hidden_SH: Tensor, *, weight_VH: Tensor, targets_S: Tensor, shape: LogitShape, chunk_tokens: int, entropy: bool
) -> tuple[Tensor, Tensor | None]:
    """Float32 log-probabilities of `targets_S` (S,) and, if asked, entropies (S,) under softmax(shape(h @ W.T))."""
    # One dtype for both factors, chosen outside so that the cast is differentiated; autocast stays out of the chunks.
    with torch.autocast(hidden_SH.device.type, enabled=False):
        logp_S, entropy_S = _HeadLogprobs.apply(
            hidden_SH, weight_VH.to(hidden_SH.dtype), targets_S, shape, chunk_tokens, entropy
        )
    return logp_S, entropy_S if entropy else None


class _HeadLogprobs(torch.autograd.Function):
    """Log-probabilities and entropies of a softmax by chunks of tokens; backward computes each chunk's logits again."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_SH: Tensor,
        weight_VH: Tensor,
        targets_S: Tensor,
        shape: LogitShape,
        chunk_tokens: int,
        entropy: bool,
    ) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        small = hidden_SH.shape[0] * weight_VH.shape[0] <= KEEP_LOGITS_BELOW
        keep = small and shape.cap is None and any(ctx.needs_input_grad)  # with a cap, backward needs logits as well
        kept = []
        logp_S = hidden_SH.new_empty(hidden_SH.shape[0], dtype=_wide(hidden_SH.dtype))
        entropy_S = torch.zeros_like(logp_S)
        for rows in _chunks(hidden_SH.shape[0], chunk_tokens):
            logq_CV = F.log_softmax(_logits(hidden_SH[rows], weight_VH, shape=shape), dim=1)
            logp_S[rows] = logq_CV.gather(1, targets_S[rows, None]).squeeze(1)
            if entropy:
                entropy_S[rows] = -logq_CV.exp().mul_(logq_CV).sum(dim=1)
            if keep:
                kept.append(logq_CV)
        ctx.save_for_backward(hidden_SH, weight_VH, targets_S, entropy_S, *kept)
        ctx.shape, ctx.chunk_tokens = shape, chunk_tokens
        return logp_S, entropy_S

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        logp_grad_S, entropy_grad_S = gradients
        hidden_SH, weight_VH, targets_S, entropy_S, *kept = ctx.saved_tensors
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        hidden_grad_SH = torch.empty_like(hidden_SH) if needs_hidden else None
        # A sum over chunks: in float32 even where the weights are bfloat16.
        weight_grad_VH = torch.zeros_like(weight_VH, dtype=_wide(weight_VH.dtype)) if needs_weight else None
        for index, rows in enumerate(_chunks(hidden_SH.shape[0], ctx.chunk_tokens)):
            logits_CV = None if kept else _logits(hidden_SH[rows], weight_VH, shape=ctx.shape)
            gradient_CV = _softmax_gradient(
                kept[index] if logits_CV is None else F.log_softmax(logits_CV, dim=1),
                targets_C=targets_S[rows],
                logp_grad_C=None if logp_grad_S is None else logp_grad_S[rows],
                entropy_grad_C=None if entropy_grad_S is None else entropy_grad_S[rows],
                entropy_C=entropy_S[rows],
            )
            gradient_CV = ctx.shape.backward_(gradient_CV, logits_CV=logits_CV).to(hidden_SH.dtype)
            if hidden_grad_SH is not None:
                torch.mm(gradient_CV, weight_VH, out=hidden_grad_SH[rows])
            if weight_grad_VH is not None:
                weight_grad_VH += gradient_CV.t() @ hidden_SH[rows]
        if weight_grad_VH is not None:
            weight_grad_VH = weight_grad_VH.to(weight_VH.dtype)
        return hidden_grad_SH, weight_grad_VH, None, None, None, None


def _logits(hidden_CH: Tensor, weight_VH: Tensor, *, shape: LogitShape) -> Tensor:
    raw_CV = hidden_CH @ weight_VH.t()
    return shape.apply_(raw_CV.to(_wide(raw_CV.dtype)))


def _softmax_gradient(
    logq_CV: Tensor, *, targets_C: Tensor, logp_grad_C: Tensor | None, entropy_grad_C: Tensor | None, entropy_C: Tensor
) -> Tensor:
    """Gradient with respect to logits z, from p = softmax(z), H its entropy and a the target:

    d log p_a / dz = onehot(a) - p and d H / dz = -p (log p + H).
    """
    gradient_CV = logq_CV.exp()
    factor_C = -logp_grad_C if logp_grad_C is not None else torch.zeros_like(entropy_C)
    if entropy_grad_C is None:
        gradient_CV.mul_(factor_C[:, None])
    else:
        slope_CV = (logq_CV + entropy_C[:, None]).mul_(-entropy_grad_C[:, None])
        gradient_CV.mul_(slope_CV.add_(factor_C[:, None]))
    if logp_grad_C is not None:
        gradient_CV.scatter_add_(1, targets_C[:, None], logp_grad_C[:, None])
    return gradient_CV


def _chunks(total: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, total)) for start in range(0, total, size))


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


@contextmanager
def _forward_replaced(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
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


def _padded_right(attention_mask_BT: Tensor) -> bool:
    mask_BT = attention_mask_BT != 0
    return bool((mask_BT[:, :-1] | ~mask_BT[:, 1:]).all())


def _head_weight(causal_lm: Any) -> Tensor:
    head = causal_lm.get_output_embeddings()
    if type(head) is not nn.Linear or head.bias is not None:
        raise ValueError(
            f"the language-model head must be a plain linear layer without bias, got {head}: leave it out of the "
            "adapter's target_modules"
        )
    weight: Tensor = head.weight
    return weight
