"""The embedded engine on a GPU: both decoders against the policy's own passes on the CPU, and rollouts in bf16."""

from __future__ import annotations

import pytest
import torch

from rzero.engines.embedded import EmbeddedEngine
from rzero.engines.verification import TOLERANCES, policy_logprobs
from rzero.policy import Policy
from rzero.types import Group, Prompt, Sampling
from tests.tiny_models import build_policy

PROMPTS = [Prompt(user=f"What is {number} + {number + 1}?") for number in range(3)]
SAMPLED = Sampling(n=4, top_p=0.9, max_tokens=24, seed=1)
GREEDY = Sampling(n=1, temperature=0.0, max_tokens=24)


def drawn(policy: Policy, sampling: Sampling, *, device: torch.device, decoder: str, dtype: str | None) -> list[Group]:
    """By an engine on the device that checks itself after its sync."""
    engine = EmbeddedEngine(
        max_rows=8, threads=1, compact_below=0.85, prefill_tokens=64, first_capacity=4, verify_sync=True,
        decoder=decoder, dtype=dtype, device=str(device),
    )  # fmt: skip
    engine.sync(policy)
    return engine.generate(PROMPTS, sampling)


def expected(policy: Policy, group: Group, row: int) -> torch.Tensor:
    """Log-probs [tokens, V] of a completion by the policy in host memory."""
    ids = [*group.prompt_ids, *group.completions[row].token_ids]
    return policy_logprobs(policy, ids[:-1])[len(group.prompt_ids) - 1 :]


@pytest.mark.parametrize("decoder", ["fused", "generic"])
@pytest.mark.parametrize("there", [False, True], ids=["in host memory", "on the device"])
def test_float32_rollouts_have_the_values_of_the_cpu(there: bool, decoder: str, device: torch.device) -> None:
    policy, here = build_policy("qwen3"), build_policy("qwen3")
    if there:
        policy.model.to(device)
    for group in drawn(policy, SAMPLED, device=device, decoder=decoder, dtype=None):
        for row, completion in enumerate(group.completions):
            of_tokens = expected(here, group, row).gather(1, torch.tensor(completion.token_ids)[:, None])[:, 0]
            assert completion.logprobs == pytest.approx(of_tokens.tolist(), abs=1e-3)
    for group in drawn(policy, GREEDY, device=device, decoder=decoder, dtype=None):
        assert list(group.completions[0].token_ids) == expected(here, group, 0).argmax(-1).tolist()


def test_bf16_rollouts_are_near_the_values_of_float32(device: torch.device) -> None:
    policy = build_policy("qwen3")
    nats, share = TOLERANCES[torch.bfloat16]
    for group in drawn(policy, SAMPLED, device=device, decoder="generic", dtype="bfloat16"):
        for row, completion in enumerate(group.completions):
            whole = expected(policy, group, row)
            of_tokens = whole.gather(1, torch.tensor(completion.token_ids)[:, None])[:, 0]
            difference = (torch.tensor(completion.logprobs) - of_tokens).abs().max()
            assert 0 < difference <= max(nats, share * float(whole.abs().max()))
