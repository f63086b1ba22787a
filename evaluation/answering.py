"""What answers an evaluation: hashes of everything about a policy that decides a response.

Weights by their bytes, and apart from them the way from text to tokens and back: the tokenizer's rules, the prompt as
its chat template renders it (the date in it included), the tokens that end a response, and the context.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from evaluation.store import digest
from rzero.policy import Policy
from rzero.prompts import QUESTION_SLOT, Prompts, encode_prompt
from rzero.types import Prompt

Fits = Callable[[Prompt], bool]
"""Whether a prompt leaves room for a response in the model's context."""

_NOT_THE_TOKENIZER = ("truncation", "padding")
"""Parts of a fast tokenizer's state that the last call to it left there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answering:
    """A policy as the store knows it: hashes of its weights and of its `spelling`, and which prompts fit into it."""

    weights: str
    spelling: str
    fits: Fits

    @classmethod
    def of(cls, policy: Policy, prompts: Prompts) -> Answering:
        """That of a policy which is asked with these prompts."""
        tokenizer, context = policy.tokenizer, policy.context()  # the policy itself is let go
        asked = encode_prompt(tokenizer, prompts.solver(QUESTION_SLOT))
        return cls(
            weights=policy.weights_hash(),
            spelling=digest([asked, _rules(tokenizer), list(policy.eos_ids()), context]),
            fits=lambda prompt: context is None or len(encode_prompt(tokenizer, prompt)) < context,
        )


def _rules(tokenizer: PreTrainedTokenizerBase) -> object:
    """The vocabulary with the tokens that were added to it; of a fast tokenizer also all rules that it goes by."""
    if tokenizer.is_fast:
        rules = json.loads(tokenizer.backend_tokenizer.to_str())
        return {key: value for key, value in rules.items() if key not in _NOT_THE_TOKENIZER}
    added = {str(number): repr(token) for number, token in tokenizer.added_tokens_decoder.items()}
    return [type(tokenizer).__name__, sorted(tokenizer.get_vocab().items()), added]
