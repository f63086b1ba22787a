"""How many parameters and operations a Llama-like model has, from a handful of numbers."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path

from rzero.types import Json


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """Numbers under their names in a Hugging Face config: gated feed-forward, grouped-query attention, no biases."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    tie_word_embeddings: bool

    @classmethod
    def of(cls, policy: Json) -> Architecture:
        """From `policy.architecture`, else the config.json in `policy.path_or_id`. ValueError without either."""
        if (numbers := policy.get("architecture")) is None:
            path = Path(policy["path_or_id"]) / "config.json"
            if not path.is_file():
                raise ValueError(
                    f"nothing is known about the shape of {policy['path_or_id']}: add `architecture` to its file in "
                    "conf/policy (see qwen3_4b_base.yaml), or give a directory with a config.json"
                )
            numbers = json.loads(path.read_text(encoding="utf-8"))
        names = [field.name for field in fields(cls)]
        if missing := [name for name in names if name not in numbers]:
            raise ValueError(f"the architecture of {policy['path_or_id']} lacks {', '.join(missing)}")
        return cls(**{name: numbers[name] for name in names})

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """(inputs, outputs) of each matrix of one layer."""
        width, heads = self.hidden_size, self.num_attention_heads * self.head_dim
        keys = self.num_key_value_heads * self.head_dim
        return {
            "q_proj": (width, heads),
            "k_proj": (width, keys),
            "v_proj": (width, keys),
            "o_proj": (heads, width),
            "gate_proj": (width, self.intermediate_size),
            "up_proj": (width, self.intermediate_size),
            "down_proj": (self.intermediate_size, width),
        }

    @property
    def layer_parameters(self) -> int:
        """Matrices of one layer; its few thousand norm weights are left out."""
        return sum(inputs * outputs for inputs, outputs in self.linears.values())

    @property
    def embedding_parameters(self) -> int:
        return self.vocab_size * self.hidden_size

    @property
    def parameters(self) -> int:
        tables = 1 if self.tie_word_embeddings else 2
        return self.num_hidden_layers * self.layer_parameters + tables * self.embedding_parameters

    def adapter_parameters(self, *, rank: int, target_modules: Iterable[str]) -> int:
        """Count the parameters of low-rank adapters on those matrices in every layer."""
        from rzero.adapters import ALL_LINEAR  # with torch, which --help need not wait for

        names = self.linears if target_modules == ALL_LINEAR else target_modules
        return self.num_hidden_layers * sum(rank * sum(self.linears[name]) for name in names)

    @property
    def cache_bytes_per_token(self) -> int:
        """Keys and values of all layers at two bytes a number."""
        return 2 * self.num_hidden_layers * self.num_key_value_heads * self.head_dim * 2

    def forward_flops(self, *, tokens: float, scored: float, context: float) -> float:
        """Operations of a forward pass over `tokens`, of which `scored` meet the head, `context` tokens before each."""
        layers = 2 * self.num_hidden_layers * self.layer_parameters * tokens
        attention = 4 * self.num_hidden_layers * self.num_attention_heads * self.head_dim * context * tokens
        return layers + attention + 2 * self.embedding_parameters * scored
