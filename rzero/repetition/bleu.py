"""Sentence BLEU of all pairs of many texts at once, equal to nltk's to the last bits.

The distance of two texts is 1 - BLEU (up to 4-grams, equal weights, method-1 smoothing: a clipped match count of 0
counts as 0.1). BLEU is not symmetric; as in the authors' code the text with the lower index is the hypothesis.

Two facts make this cheap without changing one result:
1. min(count_i, count_j) summed over n-grams is a dot product of 0/1 rows, once the second, third, ... occurrence of an
   n-gram in a text has a column of its own. So matches of all pairs are one matrix product.
2. BLEU <= brevity * p_4^(1/4): whoever shares too few 4-grams with everybody is alone, and no more is asked about it.

Names: N texts, T tokens of all texts together.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

ORDERS = 4  # BLEU counts 1-grams to 4-grams
EPSILON = 0.1  # method 1 of Chen and Cherry (2014), "A Systematic Comparison of Smoothing Techniques", table 1
SLACK = 1e-9  # distances this close to the threshold are computed again, one by one, in nltk's order of operations
DENSE_SHARE = 1 / 16  # n-grams in more than this share of the texts are multiplied densely
BLOCK = 128  # texts compared with all others at once

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Tokens = Sequence[str]


def bleu_distance(hypothesis: Tokens, reference: Tokens) -> float:
    """1 - sentence BLEU of two token lists, bit for bit as nltk 3.9 computes it; 1.0 without a common token."""
    logs = []
    for order in range(1, ORDERS + 1):
        own = Counter(tuple(hypothesis[i : i + order]) for i in range(len(hypothesis) - order + 1))
        other = Counter(tuple(reference[i : i + order]) for i in range(len(reference) - order + 1))
        matches = sum((own & other).values())
        if order == 1 and not matches:
            return 1.0
        logs.append(math.log((matches or EPSILON) / max(1, len(hypothesis) - order + 1)) / ORDERS)
    brevity = min(1.0, math.exp(1 - len(reference) / len(hypothesis)))
    return 1 - brevity * math.exp(math.fsum(logs))


def nearest_similarity(questions: Sequence[str], *, past: Sequence[str]) -> list[float]:
    """The highest BLEU in [0, 1] of each question, as hypothesis, against the past ones; 0 where there are none."""
    if not questions or not past:
        return [0.0] * len(questions)
    texts = Texts.of([text.split() for text in (*questions, *past)])
    posed, earlier = texts[: len(questions)], texts[len(questions) :]
    return [float(best) for rows in _blocks(len(questions)) for best in _bleu(posed[rows], earlier).max(axis=1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Grams:
    """0/1 rows whose dot products are clipped n-gram matches: frequent n-grams (N, F) dense, the others sparse."""

    frequent: NDArray[np.float32]
    rare: csr_array

    @classmethod
    def of(cls, ids: Ints, owners: Ints, *, rows: int) -> _Grams:
        """One column per (n-gram, k-th occurrence in its text); columns that only one text has are left out."""
        columns, in_texts = _occurrences(ids, owners)
        frequent = in_texts > max(1.0, DENSE_SHARE * rows)
        kinds = []
        for wanted in (frequent, (in_texts > 1) & ~frequent):
            kept = wanted[columns]
            cells = (owners[kept], (np.cumsum(wanted) - 1)[columns[kept]])
            ones = np.ones(len(cells[0]), dtype=np.float32)
            kinds.append(csr_array((ones, cells), shape=(rows, int(wanted.sum()))))
        return cls(frequent=kinds[0].toarray(), rare=kinds[1])

    def __getitem__(self, rows: Ints | slice) -> _Grams:
        return _Grams(frequent=self.frequent[rows], rare=self.rare[rows])

    def matches(self, other: _Grams) -> NDArray[np.float32]:
        """Clipped matches of all pairs (N, M). Counts are exact in float32 up to 2^24."""
        counts: NDArray[np.float32] = self.frequent @ other.frequent.T
        counts += (self.rare @ other.rare.T).toarray()
        return counts


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """Token counts (N,) and the n-grams for n = 1..4 of N texts."""

    lengths: Ints
    grams: tuple[_Grams, ...]

    @classmethod
    def of(cls, tokens: Sequence[Tokens]) -> Texts:
        vocabulary: dict[str, int] = {}
        numbers = [[vocabulary.setdefault(word, len(vocabulary)) for word in row] for row in tokens]
        lengths_N = np.array([len(row) for row in numbers], dtype=np.int64)
        words_T = np.array([word for row in numbers for word in row], dtype=np.int64)
        owner_T = np.repeat(np.arange(len(tokens)), lengths_N)
        ids, grams = words_T, []
        for order in range(1, ORDERS + 1):
            if order > 1:  # an n-gram is an (n-1)-gram and a word; renumbering keeps the product within 64 bits
                ids = np.unique(ids[:-1] * len(vocabulary) + words_T[order - 1 :], return_inverse=True)[1]
            inside = owner_T[: len(ids)] == owner_T[order - 1 :]
            grams.append(_Grams.of(ids[inside], owner_T[: len(ids)][inside], rows=len(tokens)))
        return cls(lengths=lengths_N, grams=tuple(grams))

    def __getitem__(self, rows: Ints | slice) -> Texts:
        return Texts(lengths=self.lengths[rows], grams=tuple(gram[rows] for gram in self.grams))


def _occurrences(ids: Ints, owners: Ints) -> tuple[Ints, Ints]:
    """For each n-gram of each text the column of (n-gram, k-th occurrence), and in how many texts each column is."""
    order = np.lexsort((ids, owners))
    sorted_ids, sorted_owners = ids[order], owners[order]
    starts = np.flatnonzero(np.diff(sorted_ids, prepend=-1) | np.diff(sorted_owners, prepend=-1))
    run = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(ids)))
    occurrence = np.empty_like(ids)
    occurrence[order] = np.arange(len(ids)) - starts[run]
    keys = ids * (1 + occurrence.max(initial=0)) + occurrence
    _, columns, in_texts = np.unique(keys, return_inverse=True, return_counts=True)
    return columns, in_texts


def with_possible_neighbours(texts: Texts, *, threshold: float) -> Ints:
    """The texts that share enough 4-grams with another one for their BLEU to exceed 1 - threshold."""
    lengths, kind_N = np.unique(texts.lengths, return_inverse=True)
    # p_4 must exceed ((1 - threshold) / brevity)^4; both sides are multiplied by the 4-grams of the hypothesis
    longer = np.maximum(lengths[None, :] / np.maximum(lengths, 1)[:, None] - 1, 0.0)
    needed = np.maximum(lengths - ORDERS + 1, 1)[:, None] * ((1 - threshold) * np.exp(np.minimum(longer, 20.0))) ** 4
    needed[lengths == 0, :] = needed[:, lengths == 0] = np.inf
    needed = (needed * (1 - 1e-6)).astype(np.float32)
    found = np.zeros(len(kind_N), dtype=bool)
    for rows in _blocks(len(kind_N)):
        rest = slice(rows.start, None)  # earlier texts were compared with these already
        enough = np.maximum(texts.grams[-1][rows].matches(texts.grams[-1][rest]), np.float32(EPSILON))
        near = np.triu(enough >= needed[kind_N[rows]][:, kind_N[rest]], k=1)
        found[rows] |= near.any(axis=1)
        found[rest] |= near.any(axis=0)
    return np.flatnonzero(found)


def distances(texts: Texts, tokens: Sequence[Tokens], *, threshold: float) -> Floats:
    """1 - BLEU of all pairs (N, N), symmetric, the lower index being the hypothesis; 0 on the diagonal.

    Those that rounding could put on the wrong side of `threshold` are the ones of `bleu_distance`.
    """
    distances = np.zeros((len(tokens), len(tokens)))
    for rows in _blocks(len(distances)):
        rest = slice(rows.start, None)
        upper = np.triu(1 - _bleu(texts[rows], texts[rest]), k=1)
        distances[rows, rest] += upper
        distances[rest, rows] += upper.T
    for row, column in np.argwhere(np.triu(np.abs(distances - threshold) < SLACK, k=1)):
        distances[row, column] = distances[column, row] = bleu_distance(tokens[row], tokens[column])
    return distances


def _bleu(hypotheses: Texts, references: Texts) -> Floats:
    """Sentence BLEU of all pairs (hypotheses, references), to the last few bits."""
    lengths, others = hypotheses.lengths.astype(np.float64)[:, None], references.lengths.astype(np.float64)[None, :]
    power = np.ones((lengths.size, others.size))  # BLEU^4, so that the geometric mean is two square roots
    for order, (left, right) in enumerate(zip(hypotheses.grams, references.grams, strict=True), start=1):
        matches = left.matches(right).astype(np.float64)
        matches[matches == 0] = 0.0 if order == 1 else EPSILON
        power *= matches
        power /= np.maximum(lengths - order + 1, 1)
    with np.errstate(under="ignore"):
        brevity = np.exp(np.minimum(1 - others / np.maximum(lengths, 1), 0.0))
    bleu: Floats = brevity * np.sqrt(np.sqrt(power))
    return bleu


def _blocks(rows: int) -> Iterator[slice]:
    """Consecutive rows: what is computed for all pairs of a block fits a processor's cache."""
    return (slice(start, start + BLOCK) for start in range(0, rows, BLOCK))
