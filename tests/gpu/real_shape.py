"""The update that is timed and weighed on a GPU, and what `experiments.planning` foresees for it.

The shape is that of Qwen3-0.6B with random weights: large enough for kernels to count, small enough for any GPU that
this is for. The figures are those of the plan: `tests/experiments/test_simulated_presets.py` computes them anew, so
that nothing but `rzero` has to be imported on the GPU's machine.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any

import torch

from rzero.grpo import PolicyLoss, SequenceMean, group_advantages
from rzero.modules.settings import GRPOSettings
from rzero.types import Completion, Group, Json, Prompt

PLANNED_BYTES = 18388614376
"""Peak of the tensors of the process, by simulation."""
PLANNED_SECONDS = {"a100": 5.60, "h100": 1.77}
"""Of the update, by conf/hardware: data sheets and the utilisation that plans assume."""
HARDWARE = {"A100": "a100", "H100": "h100", "H200": "h100"}
"""What stands in the name of a GPU; an H200 is an H100 with another memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One rollout's update: `rows` completions of `prompt` + `response` tokens, in two steps of two micro-batches."""

    architecture: Json
    prompt: int
    response: int
    max_tokens_per_microbatch: int
    chunk_tokens: int

    @property
    def rows(self) -> int:
        return 2 * 2 * (self.max_tokens_per_microbatch // (self.prompt + self.response))

    def settings(self) -> GRPOSettings:
        return GRPOSettings(
            steps=1, prompts_per_step=self.rows // 2, samples_per_prompt=2, updates_per_rollout=2,
            max_tokens_per_microbatch=self.max_tokens_per_microbatch, share_prompts=False,
            chunk_tokens=self.chunk_tokens, max_grad_norm=1.0,
            sampling={"temperature": 1.0, "max_tokens": self.response}, advantage=group_advantages,
        )  # fmt: skip

    def groups(self) -> list[Group]:
        """Pairs of completions; tokens differ from row to row."""
        made = []
        for pair in range(self.rows // 2):
            ids = [(31 * pair + 7 * place) % self.architecture["vocab_size"] for place in range(self.prompt)]
            answers = (tuple(ids[(place + shift) % self.prompt] for place in range(self.response)) for shift in (0, 1))
            drawn = tuple(
                Completion(text="", token_ids=answer, logprobs=(-10.0,) * self.response, finish_reason="stop")
                for answer in answers
            )
            made.append(Group(prompt=Prompt(user=""), prompt_ids=tuple(ids), completions=drawn))
        return made


REAL = Workload(
    architecture={
        "model_type": "qwen3", "hidden_size": 1024, "num_hidden_layers": 28, "num_attention_heads": 16,
        "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 3072, "vocab_size": 151936,
        "tie_word_embeddings": True,
    },
    prompt=250, response=1228, max_tokens_per_microbatch=16384, chunk_tokens=2048,
)  # fmt: skip
SMALL = replace(
    REAL,
    architecture={
        **REAL.architecture, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 8, "intermediate_size": 64, "vocab_size": 160,
    },
    prompt=8, response=24, max_tokens_per_microbatch=128, chunk_tokens=16,
)  # fmt: skip
"""For CPUs."""


def loss() -> PolicyLoss:
    """As conf/loss/paper.yaml has it."""
    return PolicyLoss(clip_low=0.2, clip_high=0.3, aggregation=SequenceMean(), kl_coefficient=0.01, kl_clamp=10.0)


def optimizer() -> Any:
    """As conf/optimizer/adamw.yaml and conf/scale/paper.yaml have it."""
    return functools.partial(torch.optim.AdamW, lr=1e-6, betas=(0.9, 0.999), weight_decay=1e-2)
