"""The sides of the rollout bench of a language model: what each draws with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from experiments.bench.rollout_worker import Draw, Facts
from experiments.bench.subject import problems
from rzero.engines.embedded import EmbeddedEngine
from rzero.engines.embedded.linear import int8_product
from rzero.engines.embedded.timing import best_seconds
from rzero.policy import Policy, load_policy
from rzero.types import Group, Json, Prompt, Sampling

W8A8: Json = {
    "quant_method": "compressed-tensors", "format": "int-quantized", "quantization_status": "compressed",
    "ignore": ["lm_head"],
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel", "dynamic": False},
            "input_activations": {
                "num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True
            },
        }
    },
}  # fmt: skip
"""Weights rounded per channel, activations per row, as vLLM names it; the output layer stays as it is."""


def sides_of(side: str, settings: Json) -> tuple[dict[str, Draw], Facts]:
    """Returns what a worker draws with, by name, and what says facts about it."""
    torch.set_num_threads(settings["threads"])
    if side == "torch":
        return torch_sides(settings)
    return {side: _vllm_side(settings, kind=side.removeprefix("vllm_"))}, dict


def torch_sides(settings: Json) -> tuple[dict[str, Draw], Facts]:
    policy = load_policy(settings["model"], dtype="float32", attn_implementation="sdpa")
    policy.tokenizer.eos_token = None  # every completion has the same length
    if policy.model.generation_config is not None:
        policy.model.generation_config.eos_token_id = None
    prompts = [Prompt(system=settings["system"], user=text) for text in problems(settings["prompts"])]
    engines = {"int8": _engine(settings, dtype="int8"), "float32": _engine(settings, dtype=None)}
    for engine in engines.values():
        engine.sync(policy)
    ids = [group.prompt_ids for group in engines["int8"].generate(prompts, Sampling(max_tokens=1))]

    def ours(engine: EmbeddedEngine) -> Draw:
        def draw(tokens: int) -> int:
            sampling = Sampling(n=settings["samples"], max_tokens=tokens or settings["tokens"], seed=1)
            return _count(engine.generate(prompts, sampling))

        return draw

    sides = {name: ours(engine) for name, engine in engines.items()}
    sides["generate"] = lambda tokens: _generate(policy, ids, settings, tokens or settings["tokens"])
    weights = sum(p.numel() for p in policy.model.parameters())
    if not policy.model.config.tie_word_embeddings:  # the table of inputs is looked up, not multiplied with
        weights -= sum(p.numel() for p in policy.model.get_input_embeddings().parameters())
    # the peak is measured when it is asked for: other sides are still loading now
    return sides, lambda: {"operations_per_token": 2 * weights, "int8_peak": _int8_peak()}


def _engine(settings: Json, *, dtype: str | None) -> EmbeddedEngine:
    return EmbeddedEngine(
        max_rows=settings["prompts"] * settings["samples"], threads=settings["threads"], compact_below=0.85,
        prefill_tokens=16384, first_capacity=64, verify_sync=True, decoder="auto", dtype=dtype,
    )  # fmt: skip


def _count(groups: Sequence[Group]) -> int:
    return sum(len(completion.token_ids) for group in groups for completion in group.completions)


def _generate(policy: Policy, prompt_ids: Sequence[Sequence[int]], settings: Json, tokens: int) -> int:
    from transformers import GenerationConfig

    longest = max(map(len, prompt_ids))
    ids = torch.tensor([[0] * (longest - len(p)) + list(p) for p in prompt_ids])
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompt_ids])
    config = GenerationConfig(
        do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=tokens,
        num_return_sequences=settings["samples"], pad_token_id=0,
    )  # fmt: skip
    with torch.inference_mode():
        model: Any = policy.model  # `generate` is typed for a class that no model of transformers belongs to
        drawn_BT: torch.Tensor = model.generate(ids, attention_mask=mask, generation_config=config)
    return drawn_BT[:, longest:].numel()


def _int8_peak(*, rows: int = 1024, width: int = 4096) -> float:
    """Returns the best int8 matrix-product rate of this process' threads, in operations per second."""
    return 2 * rows * width**2 / best_seconds(int8_product(rows, width))


def _vllm_side(settings: Json, *, kind: str) -> Draw:
    from transformers import AutoTokenizer

    from rzero.engines.vllm.in_process import GIB, build
    from rzero.engines.vllm.snapshot import Architecture
    from rzero.prompts import encode_prompt

    config: Json = json.loads((Path(settings["model"]) / "config.json").read_text(encoding="utf-8"))
    dtype = "bfloat16" if kind == "w8a8" else kind
    config |= {"dtype": dtype} | ({"quantization_config": W8A8} if kind == "w8a8" else {})
    rows, longest = settings["prompts"] * settings["samples"], min(2048, config["max_position_embeddings"])
    llm = build(
        Architecture(config=json.dumps(config), dtype=dtype, context=longest),
        {
            "max_num_seqs": rows, "max_model_len": longest, "max_num_batched_tokens": 16384,
            "kv_cache_memory_bytes": GIB, "enforce_eager": True,
        },
    )  # fmt: skip
    from vllm import SamplingParams

    torch.set_num_threads(settings["threads"])
    tokenizer = AutoTokenizer.from_pretrained(settings["model"], local_files_only=True)
    prompts = [
        {"prompt_token_ids": encode_prompt(tokenizer, Prompt(system=settings["system"], user=text))}
        for text in problems(settings["prompts"])
    ]

    def draw(tokens: int) -> int:
        params = SamplingParams(
            n=settings["samples"], temperature=1.0, max_tokens=tokens or settings["tokens"], ignore_eos=True,
            logprobs=0, detokenize=False,
        )  # fmt: skip
        outputs = llm.generate(prompts, params, use_tqdm=False)
        llm.reset_prefix_cache()
        return sum(len(completion.token_ids) for output in outputs for completion in output.outputs)

    return draw
