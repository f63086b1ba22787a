"""How much of a batch each question repeats, in any language and at any length.

The published penalty (`rzero.repetition.paper`) counts blank-separated words and 4-grams of them. So exact copies cost
nothing where they are shorter than four words or their script has no blanks, and short templates pass with other
numbers in them. Here

* exact copies are at distance 0, whatever their length or script;
* a pair with a *short* text in it, one of fewer than `words` words or in a script without blanks, is also compared by
  its fine tokens, and the smaller distance counts. Fine tokens are words, punctuation marks and single characters of
  scripts without blanks, whatever the case; every number is the same token. Equal ones are at distance 0.

Two texts that are both long keep their published distance, hence a batch of such texts its published shares.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rzero.repetition.bleu import Floats, Ints, Texts, Tokens, distances, with_possible_neighbours
from rzero.repetition.clusters import check_threshold, join, shares
from rzero.repetition.paper import cluster_labels

# Thai, Lao, Tibetan, Burmese, Khmer, kana, Chinese characters
_UNSPACED = "\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_HAS_UNSPACED = re.compile(f"[{_UNSPACED}]")
_FINE = re.compile(rf"(?P<number>\d+(?:[.,]\d+)*)|[{_UNSPACED}]|(?:(?![{_UNSPACED}])[^\W\d_])+|\S")
_SINGLE = re.compile(r"(?P<number>\d+(?:[.,]\d+)*)|\S")
_NUMBER = "0"

Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class AnyLanguageRepetition:
    """`shares(questions, threshold=...)` in place of `cluster_shares`; `words` says from how many a text is long."""

    words: int

    def __post_init__(self) -> None:
        if self.words < 1:
            raise ValueError(f"repetition.words must be at least 1, got {self.words}; BLEU is at ease from 8 on")

    def __call__(self, questions: Sequence[str], *, threshold: float = 0.5) -> list[float]:
        """|C_k| / B for each question k, in (0, 1]; a question without a visible character is a cluster of its own."""
        return shares(self.labels(questions, threshold=threshold))

    def labels(self, questions: Sequence[str], *, threshold: float = 0.5) -> Ints:
        """The cluster of each question (N,), named by the index of one of its members."""
        check_threshold(threshold)
        short_N = np.array([self._is_short(question) for question in questions], dtype=bool)
        if not short_N.any():
            return cluster_labels(questions, threshold=threshold)
        words, fine = [question.split() for question in questions], [fine_tokens(question) for question in questions]
        members = _with_neighbours(words, fine, short_N=short_N, threshold=threshold)
        labels_N = np.arange(len(questions))
        if len(members):
            apart = _distances(
                [words[i] for i in members], [fine[i] for i in members], short_N=short_N[members], threshold=threshold
            )
            labels_N[members] = members[join(apart, threshold=threshold)]
        return labels_N

    def _is_short(self, question: str) -> bool:
        return len(question.split()) < self.words or _HAS_UNSPACED.search(question) is not None


def fine_tokens(question: str) -> list[str]:
    """Words, marks and single characters, case folded; every number is the same token. Characters without blanks."""
    folded = unicodedata.normalize("NFKC", question).casefold().strip()
    tokens = _FINE if any(char.isspace() for char in folded) else _SINGLE
    return [_NUMBER if found["number"] else found[0] for found in tokens.finditer(folded)]


def _with_neighbours(words: Sequence[Tokens], fine: Sequence[Tokens], *, short_N: Flags, threshold: float) -> Ints:
    """The texts that may be closer than `threshold` to another one; BLEU alone misses equal texts of few tokens."""
    near = np.isin(np.arange(len(words)), with_possible_neighbours(Texts.of(words), threshold=threshold))
    near[with_possible_neighbours(Texts.of(fine), threshold=threshold)] = True
    for copies in _copies(fine):
        if short_N[copies].any():
            near[copies] = True
    return np.flatnonzero(near)


def _distances(words: Sequence[Tokens], fine: Sequence[Tokens], *, short_N: Flags, threshold: float) -> Floats:
    """The published distance (N, N); where a text of the pair is short the one of fine tokens, if that is smaller."""
    apart = distances(Texts.of(words), words, threshold=threshold)
    finer = distances(Texts.of(fine), fine, threshold=threshold)
    pairs_NN = short_N[:, None] | short_N[None, :]
    for copies in _copies(fine):
        finer[np.ix_(copies, copies)] = 0.0
    return np.where(pairs_NN, np.minimum(apart, finer), apart)


def _copies(fine: Sequence[Tokens]) -> Iterator[Ints]:
    """The texts (two or more) of each sequence of tokens; texts without a token are nobody's copies."""
    places = defaultdict(list)
    for place, tokens in enumerate(fine):
        places[tuple(tokens)].append(place)
    for tokens, members in places.items():
        if tokens and len(members) > 1:
            yield np.array(members)
