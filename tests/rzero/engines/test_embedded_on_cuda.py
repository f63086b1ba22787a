"""The embedded engine keeps every tensor on its device, shown on a pretend one: same tokens as on the CPU."""

from __future__ import annotations

import pytest

from rzero.engines.embedded import EmbeddedEngine
from rzero.engines.embedded.fused import FusedSession
from rzero.types import Prompt, Sampling
from tests.pretend_cuda import on_cuda, pretend_cuda

PROMPTS = [Prompt(user=f"What is {number} + {number + 1}?") for number in range(3)]
SAMPLINGS = {
    "top_p": Sampling(n=3, top_p=0.9, max_tokens=12, seed=1),
    "top_k": Sampling(n=3, top_k=4, max_tokens=12, seed=1),
    "both": Sampling(n=3, top_p=0.9, top_k=4, max_tokens=12, seed=1),
    "greedy": Sampling(n=1, temperature=0.0, max_tokens=12),
}


def engine(decoder: str, *, device: str | None = None, refill: bool = False) -> EmbeddedEngine:
    return EmbeddedEngine(
        max_rows=5 if refill else 8, threads=1, compact_below=0.85, prefill_tokens=64, first_capacity=4,
        verify_sync=True, decoder=decoder, device=device, refill=refill,
    )  # fmt: skip


@pytest.mark.parametrize(("decoder", "refill"), [("fused", False), ("fused", True), ("generic", False)])
@pytest.mark.parametrize("where", ["the policy is there", "the policy is in host memory"])
def test_tokens_and_logprobs_are_those_of_the_cpu(
    decoder: str, refill: bool, where: str, make_policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = make_policy("qwen3")
    if refill:  # rows must end at different steps for others to join them
        policy.model.generation_config.eos_token_id = list(range(240, 310))
    joined, join = [], FusedSession.join
    monkeypatch.setattr(FusedSession, "join", lambda *given, **more: (joined.append(1), join(*given, **more))[1])
    here = engine(decoder)
    here.sync(policy)
    expected = {name: here.generate(PROMPTS, sampling) for name, sampling in SAMPLINGS.items()}
    with pretend_cuda():
        if where == "the policy is there":
            on_cuda(policy.model)
        there = engine(decoder, device="cuda", refill=refill)
        there.sync(policy)
        for name, sampling in SAMPLINGS.items():
            for ours, theirs in zip(there.generate(PROMPTS, sampling), expected[name], strict=True):
                assert [c.token_ids for c in ours.completions] == [c.token_ids for c in theirs.completions]
                for one, other in zip(ours.completions, theirs.completions, strict=True):
                    assert one.logprobs == pytest.approx(other.logprobs, abs=1e-5)
    assert bool(joined) == refill
