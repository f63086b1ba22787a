"""How fast the embedded engine draws completions, against `transformers` generate, vLLM and the machine's peak.

All sides run the same random-weight models on one thread, in turn, within one call; the figures are ratios of useful
tokens (up to and including eos) per second, because absolute speed says more about the machine than about the code.
Seconds are CPU seconds of this process: on one thread they equal wall time on an idle machine and leave other jobs out.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from experiments.bench.rollout_vllm import vllm_side, why_absent
from rzero.engines.embedded import EmbeddedEngine
from rzero.policy import Policy
from rzero.types import Group, Json, Prompt, Sampling

_EOS = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """A model size and the work it is measured on. Lengths are tokens."""

    vocabulary: int
    width: int
    feed_forward: int
    layers: int
    prompts: int
    samples: int
    max_tokens: int
    mean_tokens: int


SIZES = {
    "qwen3_5.8M": Size(
        vocabulary=4096, width=256, feed_forward=768, layers=6, prompts=16, samples=8, max_tokens=96, mean_tokens=24
    ),
    "qwen3_1M": Size(
        vocabulary=1024, width=128, feed_forward=384, layers=5, prompts=32, samples=8, max_tokens=96, mean_tokens=24
    ),
}


def run(*, repeats: int = 1) -> Json:
    """Ratios per model size and, at the top level, for the larger model (goals: fixed >= 2, spread >= 4, vLLM >= 1.2).

    vs_generate_fixed and vs_vllm: every completion has the same length. vs_generate_spread and vs_vllm_spread: lengths
    are geometric. mfu: share of the matrix-product peak, measured in the same run, that the engine turns into useful
    arithmetic (fixed lengths). Ratios to vLLM are null, with the reason, when it is not installed.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        peak = measure_peak()
        sizes = {name: _measure_size(size, peak=peak, repeats=repeats) for name, size in SIZES.items()}
    finally:
        torch.set_num_threads(before)
    first = sizes["qwen3_5.8M"]
    return {
        "vs_generate_fixed": first["vs_generate_fixed"],
        "vs_generate_spread": first["vs_generate_spread"],
        "vs_vllm": first["vs_vllm"],
        "vs_vllm_spread": first["vs_vllm_spread"],
        "vs_vllm_reason": why_absent(),
        "mfu": first["mfu"],
        "peak_gflops": peak / 1e9,
        "sizes": sizes,
    }


def measure_peak(*, width: int = 1024, repeats: int = 10) -> float:
    """Best fp32 matrix-product rate of one thread, in operations per second."""
    a, b = torch.randn(width, width), torch.randn(width, width)
    out = torch.empty(width, width)
    return 2 * width**3 / min(_seconds(lambda: torch.mm(a, b, out=out)) for _ in range(repeats))


def _measure_size(size: Size, *, peak: float, repeats: int) -> dict[str, float | None]:
    fixed = _measure_pair(size, eos_rate=0.0, repeats=repeats)
    spread = _measure_pair(size, eos_rate=1.0 / size.mean_tokens, repeats=repeats)
    policy = make_policy(size, eos_rate=0.0)
    embeddings = sum(p.numel() for p in policy.model.get_input_embeddings().parameters())
    parameters = sum(p.numel() for p in policy.model.parameters()) - embeddings
    return {
        "vs_generate_fixed": fixed["ours"] / fixed["generate"],
        "vs_generate_spread": spread["ours"] / spread["generate"],
        "vs_vllm": fixed["ours"] / fixed["vllm"] if "vllm" in fixed else None,
        "vs_vllm_spread": spread["ours"] / spread["vllm"] if "vllm" in spread else None,
        "mfu": fixed["ours"] * 2 * parameters / peak,
        "tokens_per_second_fixed": fixed["ours"],
        "tokens_per_second_spread": spread["ours"],
        "generate_tokens_per_second_fixed": fixed["generate"],
        "generate_tokens_per_second_spread": spread["generate"],
        "vllm_tokens_per_second_fixed": fixed.get("vllm"),
        "vllm_tokens_per_second_spread": spread.get("vllm"),
    }


def _measure_pair(size: Size, *, eos_rate: float, repeats: int) -> dict[str, float]:
    """Useful tokens per second of all sides: the best of `repeats` runs each, taken in turn."""
    policy = make_policy(size, eos_rate=eos_rate)
    engine = make_engine(policy, max_rows=size.prompts * size.samples)
    prompts = make_prompts(size)
    sampling = Sampling(n=size.samples, max_tokens=size.max_tokens, seed=1)
    prompt_ids = [group.prompt_ids for group in engine.generate(prompts, Sampling(max_tokens=1))]
    sides: dict[str, Callable[[], int]] = {
        "ours": lambda: _count_ours(engine.generate(prompts, sampling)),
        "generate": lambda: _generate(policy, prompt_ids, size=size),
    }
    rates: dict[str, float] = {}
    with vllm_side(policy, prompt_ids, samples=size.samples, max_tokens=size.max_tokens) as vllm:
        if vllm is not None:
            sides["vllm"] = vllm
        for _ in range(repeats):
            for name, work in sides.items():
                rates[name] = max(rates.get(name, 0.0), _rate(work))
    return rates


def _generate(policy: Policy, prompt_ids: list[tuple[int, ...]], *, size: Size) -> int:
    """The same work by `transformers` generate, all rows in one batch; returns the number of useful tokens."""
    longest = max(map(len, prompt_ids))
    ids = torch.tensor([[0] * (longest - len(p)) + list(p) for p in prompt_ids])
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompt_ids])
    config = GenerationConfig(
        do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=size.max_tokens,
        num_return_sequences=size.samples, pad_token_id=0, eos_token_id=policy.eos_ids() or None,
    )  # fmt: skip
    with torch.inference_mode():
        model: Any = policy.model  # `generate` is typed for a class that no model of transformers belongs to
        new_BT = model.generate(ids, attention_mask=mask, generation_config=config)[:, longest:]
    ended = (new_BT == _EOS).int().cumsum(-1) - (new_BT == _EOS).int()  # > 0 behind the first eos
    return int((ended == 0).sum()) if policy.eos_ids() else new_BT.numel()


def make_policy(size: Size, *, eos_rate: float) -> Policy:
    """A random Qwen3 that ends each response with probability `eos_rate` per token; 0: the policy has no eos at all."""
    torch.manual_seed(0)
    heads = size.width // 64
    config = Qwen3Config(
        vocab_size=size.vocabulary, hidden_size=size.width, intermediate_size=size.feed_forward,
        num_hidden_layers=size.layers, num_attention_heads=heads, num_key_value_heads=max(1, heads // 2), head_dim=64,
        max_position_embeddings=1024, tie_word_embeddings=False, bos_token_id=None, pad_token_id=0,
        eos_token_id=_EOS if eos_rate else None,
    )  # fmt: skip
    model = Qwen3ForCausalLM(config).eval()
    if eos_rate:
        with torch.no_grad():
            # One dimension of the residual stream is constant and alone decides the logit of eos.
            model.model.embed_tokens.weight[:, 0] = 1.0
            model.lm_head.weight[:, 0] = 0.0
            model.lm_head.weight[_EOS] = 0.0
            final = model.model(input_ids=torch.arange(64)[None]).last_hidden_state[0, :, 0].mean()
            model.lm_head.weight[_EOS, 0] = math.log(eos_rate / (1 - eos_rate) * (size.vocabulary - 1)) / final
    return Policy(model=model, tokenizer=_byte_tokenizer(size.vocabulary, eos=bool(eos_rate)))


def make_engine(policy: Policy, *, max_rows: int) -> EmbeddedEngine:
    engine = EmbeddedEngine(
        max_rows=max_rows, threads=1, compact_below=0.85, prefill_tokens=16384, first_capacity=64, verify_sync=True,
        decoder="auto",
    )  # fmt: skip
    engine.sync(policy)
    return engine


def make_prompts(size: Size) -> list[Prompt]:
    """Prompts of 30 to 60 tokens (one byte, one token), all different."""
    return [Prompt(user=f"{index:03d}" + "x" * (8 + index * 30 // size.prompts)) for index in range(size.prompts)]


def _byte_tokenizer(vocabulary: int, *, eos: bool) -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = ["<pad>", "<eos>", *alphabet, *(f"<{index}>" for index in range(vocabulary - 2 - len(alphabet)))]
    tokenizer = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>" if eos else None)


def _count_ours(groups: list[Group]) -> int:
    return sum(len(completion.token_ids) for group in groups for completion in group.completions)


def _rate(work: Callable[[], int]) -> float:
    start = time.process_time()
    tokens = work()
    return tokens / (time.process_time() - start)


def _seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start
