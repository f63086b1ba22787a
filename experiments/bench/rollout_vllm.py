"""vLLM's side of the rollout bench: `LLM.generate` as its users call it, in this process, on the same model.

No seeds per request and `n` samples of a prompt as one request: that is faster than what `rzero.engines.vllm` asks for.
Log-probs of the sampled tokens are returned, as the embedded engine returns them.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rzero.engines.vllm.in_process import GIB, build, left_as_it_was
from rzero.engines.vllm.snapshot import architecture, in_memory, serving_parts
from rzero.policy import Policy


def why_absent() -> str | None:
    """Why vLLM cannot be measured here; None when it can."""
    return None if importlib.util.find_spec("vllm") else "not measured: vllm is not installed (make vllm)"


@contextmanager
def vllm_side(
    policy: Policy, prompt_ids: Sequence[Sequence[int]], *, samples: int, max_tokens: int
) -> Iterator[Callable[[], int] | None]:
    """A function that draws the completions and returns the number of tokens; None when vLLM is not installed."""
    if why_absent() is not None:
        yield None
        return
    options = {
        "max_num_seqs": samples * len(prompt_ids),
        "max_model_len": None,
        "max_num_batched_tokens": 16384,
        "kv_cache_memory_bytes": 2 * GIB,
        "enforce_eager": True,
    }
    with left_as_it_was():
        llm = build(architecture(policy), options)
        weights = iter(in_memory(serving_parts(policy)).items())
        llm.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})
        from vllm import SamplingParams
    prompts = [{"prompt_token_ids": list(ids)} for ids in prompt_ids]

    def draw(limit: int) -> int:
        params = SamplingParams(
            n=samples, temperature=1.0, max_tokens=limit, stop_token_ids=list(policy.eos_ids()), ignore_eos=True,
            logprobs=0, detokenize=False,
        )  # fmt: skip
        outputs = llm.generate(prompts, params, use_tqdm=False)
        llm.reset_prefix_cache()
        return sum(len(completion.token_ids) for output in outputs for completion in output.outputs)

    with left_as_it_was():
        draw(4)  # first calls set things up
        yield lambda: draw(max_tokens)
