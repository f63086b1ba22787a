"""What models bring that would stop or bend a run hours later, put right while they are loaded.

Each repair is told in a line, none touches the files that were loaded, and what is saved of a trained model is what was
brought wherever it can be saved at all.
"""

from __future__ import annotations

import re

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase


def repaired(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """Puts right what can be, in place; returns a line for each thing that was changed."""
    notes = [_generation_config(model), _pad_token(tokenizer)]
    if switch_off_dropout(model):
        notes.append("dropout is set to 0: two passes over the same tokens must give the same log-probs")
    return tuple(note for note in notes if note)


def switch_off_dropout(model: torch.nn.Module) -> bool:
    """Sets every dropout rate of a model to 0; its configuration, and so what is saved of it, stays.

    Under dropout two passes over the same tokens differ by nats, so that ratio and KL would start away from 1 and 0.
    Returns whether there was any.
    """
    found = False
    for part in model.modules():
        # modules of their own, and numbers that a layer applies itself: attention_dropout, hidden_dropout, layerdrop
        names = ["p"] if isinstance(part, torch.nn.Dropout) else [name for name in vars(part) if "drop" in name]
        for name in names:
            rate = getattr(part, name)
            if isinstance(rate, float) and rate > 0:
                setattr(part, name, 0.0)
                found = True
    return found


def _generation_config(model: PreTrainedModel) -> str | None:
    """Leaves its token ids of a generation config that transformers loads and then refuses to save.

    Such as a temperature without `do_sample`, which generation ignores. Rollouts look at the ids only.
    """
    config = model.generation_config
    if config is None:
        return None
    try:
        config.validate(strict=True)
    except ValueError as error:
        wrong = ", ".join(re.findall(r"^- `(\w+)`", str(error), re.MULTILINE)) or str(error).partition("\n")[0]
        ids = {name: getattr(config, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
        model.generation_config = GenerationConfig(**{name: given for name, given in ids.items() if _usable(given)})
        return f"generation_config.json could not be saved again ({wrong}), so only its token ids are kept"
    return None


def _usable(ids: int | list[int] | None) -> bool:
    return ids is not None and all(number >= 0 for number in (ids if isinstance(ids, list) else [ids]))


def _pad_token(tokenizer: PreTrainedTokenizerBase) -> str | None:
    if tokenizer.pad_token_id is not None or tokenizer.eos_token_id is None:
        return None
    tokenizer.pad_token = tokenizer.eos_token
    return f"there is no pad token; the end-of-sequence token {tokenizer.eos_token!r} takes its place"
