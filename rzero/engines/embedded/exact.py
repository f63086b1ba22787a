"""Rollouts with a policy's weights as they are, or rounded to bfloat16: LoRA merged, checked by log-probs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rzero.engines.embedded.decoder import Decoder, Session
from rzero.engines.verification import coarser, policy_logprobs, probe_prompts, require_agreement
from rzero.gathering import merged_weights
from rzero.policy import Policy


class Exact:
    """A `Follower` over a decoder of whole weights. dtype: what they are rounded to; None: the policy's."""

    def __init__(self, decoder: Decoder, *, dtype: torch.dtype | None, device: torch.device) -> None:
        self.decoder = decoder
        self._dtype = dtype
        self._device = device

    def take(self, policy: Policy) -> None:
        weights = merged_weights(policy.model, dtype=self._dtype)
        self.decoder.load({name: tensor.to(self._device) for name, tensor in weights.items()})

    def start(
        self, prompts: Sequence[Sequence[int]], *, prompt_of_row: Sequence[int], max_new: int
    ) -> tuple[Session, Tensor]:
        return self.decoder.start(prompts, prompt_of_row=prompt_of_row, max_new=max_new)

    def compare(self, policy: Policy) -> None:
        self.verify(policy)

    @torch.no_grad()
    def verify(self, policy: Policy) -> None:
        """Raises RuntimeError when the log-probs on a short probe are not those of `policy`."""
        vocabulary = policy.vocabulary()
        probes, continuation = probe_prompts(policy), [vocabulary // 2, vocabulary // 3]
        dtype = coarser(policy.model.dtype, self._dtype or policy.model.dtype)
        for probe, own in zip(probes, self._probe(probes, continuation=continuation), strict=True):
            expected = policy_logprobs(policy, [*probe, *continuation])[len(probe) - 1 :]
            require_agreement(own, expected, largest=float(expected.abs().max()), dtype=dtype)

    def _probe(self, probes: list[list[int]], *, continuation: list[int]) -> list[Tensor]:
        """Log-probs [1 + len(continuation), V] behind each probe and each token of the continuation."""
        session, logits_BV = self.start(probes, prompt_of_row=[0, 1], max_new=len(continuation) + 1)
        steps = [logits_BV.log_softmax(-1)]
        for token in continuation:
            steps.append(session.step(torch.full_like(logits_BV[:, 0], token, dtype=torch.long)).log_softmax(-1))
        return list(torch.stack(steps, 1))
