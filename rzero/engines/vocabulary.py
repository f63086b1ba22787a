"""Vocabulary dropout: every completion does without some tokens, other ones each time (arXiv 2604.03472).

A Challenger that may not use the same words twice cannot settle on one template. The mask is hard and enters the
log-probs of engine, trainer and reference alike: what is learned from is the distribution that was drawn from. It is a
pure function of the completion's place in its call (`rzero.types.Dropout`), so nobody stores it.

What may be dropped are pieces of words of two characters and more. Digits, signs, white space, single letters (so that
everything can still be spelled), control tokens, what ends a response, and pieces of the contract's own words stay.

Shapes: B completions, V vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from rzero.boxes import BOX
from rzero.engines.rows import MARKERS
from rzero.engines.sampling import row_keys, uniforms
from rzero.prompts import control_token_ids
from rzero.types import Dropout

_CONTRACT = frozenset(re.findall("[a-z]+", " ".join((*MARKERS, BOX))))
"""question, think, boxed: words that the reply has to hold."""
_UNREADABLE = "\ufffd"

_KNOWN: WeakKeyDictionary[PreTrainedTokenizerBase, tuple[int, NDArray[np.bool_]]] = WeakKeyDictionary()


def droppable_tokens(
    tokenizer: PreTrainedTokenizerBase, *, vocabulary: int, eos_ids: Sequence[int]
) -> NDArray[np.bool_]:
    """Returns which tokens of a policy may be dropped (V,). vocabulary: how many it embeds."""
    known = _KNOWN.get(tokenizer)
    if known is None or known[0] != vocabulary:
        known = _KNOWN[tokenizer] = vocabulary, _of_tokenizer(tokenizer, vocabulary=vocabulary)
    droppable_V = known[1].copy()
    droppable_V[np.array(eos_ids, dtype=np.int64)] = False
    return droppable_V


def _of_tokenizer(tokenizer: PreTrainedTokenizerBase, *, vocabulary: int) -> NDArray[np.bool_]:
    held = {*control_token_ids(tokenizer), *tokenizer.all_special_ids}
    ids = sorted(number for number in set(tokenizer.get_vocab().values()) - held if number < vocabulary)
    texts = tokenizer.batch_decode([[number] for number in ids], clean_up_tokenization_spaces=False)
    droppable_V = np.zeros(vocabulary, dtype=np.bool_)
    droppable_V[ids] = [is_of_a_word(text) for text in texts]
    return droppable_V


def is_of_a_word(text: str) -> bool:
    """Returns whether a token's text, of two characters or more, is of a word that the contract does not need."""
    letters = "".join(filter(str.isalpha, text))
    return (
        bool(letters)
        and len(text.strip()) > 1
        and _UNREADABLE not in text
        and not any(letters in word for word in _CONTRACT)
    )


def dropouts(keys: NDArray[np.uint64], *, share: float) -> list[Dropout | None]:
    """Returns what the completions drawn with these keys (`row_keys`) do without; None where nothing is dropped."""
    return [Dropout(key=int(key), share=share) if share else None for key in keys]


def dropped_tokens(droppable_V: NDArray[np.bool_], drawn: Sequence[Dropout | None]) -> NDArray[np.bool_]:
    """Returns which tokens each completion does without [B, V]: each droppable one with the chance of its share."""
    ids = droppable_V.nonzero()[0]
    dropped_BV = np.zeros((len(drawn), len(droppable_V)), dtype=np.bool_)
    for row, dropout in enumerate(drawn):
        if dropout is not None:
            keys = row_keys(dropout.key, prompt_index=ids, sample_index=np.zeros_like(ids))
            dropped_BV[row, ids] = uniforms(keys, step=0, attempt=0) < dropout.share
    return dropped_BV
