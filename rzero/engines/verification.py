"""Checking after each sync, by log-probs on a short probe, that an engine samples from the policy that learns."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rzero.policy import Policy

# Nats, or a share of the largest log-prob, because rounding grows with the logits. fp32: decoders agree to about 1e-6,
# a stale matrix is off by more than 1e-2; in Gemma 3 270M, whose log-probs reach -40 nats, two right passes differ by
# 3e-4, and each by as much from the same pass in fp64. bf16: two right passes of the micro model, whose log-probs reach
# -26 nats, differ by 0.14, so that only gross errors are found, such as a head that was not loaded (about 1 nat).
TOLERANCES = {
    torch.float64: (1e-4, 2e-5),
    torch.float32: (1e-4, 2e-5),
    torch.float16: (0.01, 2e-3),
    torch.bfloat16: (0.1, 2e-2),
}


def probe_prompts(policy: Policy) -> list[list[int]]:
    """Returns two short sequences of token ids, of different length."""
    vocabulary = policy.vocabulary()
    return [[(7 * i + 3) % vocabulary for i in range(length)] for length in (3, 6)]


@torch.no_grad()
def policy_logprobs(policy: Policy, ids: Sequence[int]) -> Tensor:
    """Returns the policy's own log-probs [len(ids), V] (nats, temperature 1) of the token behind each of `ids`."""
    training = policy.model.training
    policy.model.eval()
    try:
        ids_1T = torch.tensor([ids], device=policy.model.device)
        logits_TV: Tensor = policy.model(input_ids=ids_1T, use_cache=False).logits[0].float()
        return logits_TV.log_softmax(-1).cpu()
    finally:
        policy.model.train(training)


def rollout_dtype(name: str | None) -> torch.dtype | None:
    """Returns `engine.dtype` as torch has it. Raises ValueError for one in which rollouts cannot be checked."""
    if name is None:
        return None
    known = {str(dtype).removeprefix("torch."): dtype for dtype in TOLERANCES}
    if name not in known:
        raise ValueError(f"engine.dtype must be null or one of {', '.join(known)}, got {name!r}")
    return known[name]


def coarser(*dtypes: torch.dtype) -> torch.dtype:
    """Returns the one that rounds most."""
    return max(dtypes, key=lambda dtype: torch.finfo(dtype).eps)


def require_agreement(
    own: Tensor, expected: Tensor, *, largest: float, dtype: torch.dtype, tolerance: float | None = None
) -> None:
    """Raises RuntimeError when log-probs (nats, any shape) differ by more than rounding in `dtype`, or are no numbers.

    largest: size of the policy's largest log-prob at these positions, over the whole vocabulary. tolerance: nats to
    allow in place of those of `TOLERANCES`.
    """
    nats, share = TOLERANCES[dtype]
    allowed = max(nats if tolerance is None else tolerance, share * largest)
    difference = float((own.cpu() - expected.cpu()).abs().max())
    if not difference <= allowed:
        raise RuntimeError(
            f"the engine's log-probs differ from the policy's by {difference:.3g} nats "
            f"(at most {allowed:.3g} allowed): its weights are stale or its decoder is wrong"
        )
