"""The embedded engine as its tests make it, and what it is asked."""

from rzero.engines.embedded import EmbeddedEngine
from rzero.types import Prompt

FAMILIES = ["qwen3", "qwen3_tied", "qwen2", "llama", "gemma3"]
PROMPTS = [Prompt(system="Be brief.", user=text) for text in ("What is 12 + 34?", "x", "Let x be a number. " * 3)]
SETTINGS = {
    "max_rows": 64, "threads": 1, "compact_below": 0.85, "prefill_tokens": 100, "first_capacity": 4,
    "verify_sync": True, "decoder": "auto",
}  # fmt: skip


def make_engine(policy, **changes):
    engine = EmbeddedEngine(**{**SETTINGS, **changes})
    engine.sync(policy)
    return engine


def tokens(groups):
    return [[completion.token_ids for completion in group.completions] for group in groups]


def flat(groups):
    return [completion for group in groups for completion in group.completions]
