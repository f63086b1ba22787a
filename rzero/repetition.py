"""How much of a batch each question repeats: clusters of similar texts under BLEU (paper section 3.2, SPEC section 4).

The distance of two questions is 1 - BLEU (sentence BLEU up to 4-grams, equal weights, whitespace tokens, method-1
smoothing: a clipped match count of 0 counts as 0.1). BLEU is not symmetric; as in the authors' code the question with
the lower index is the hypothesis. Agglomerative clustering with average linkage joins clusters closer than the
threshold (strictly), and question k is charged |C_k| / B.

Three facts make this cheap without changing one result:
1. min(count_i, count_j) summed over n-grams is a dot product of 0/1 rows, once the second, third, ... occurrence of an
   n-gram in a text has a column of its own. So matches of all pairs are one matrix product.
2. BLEU <= brevity * p_4^(1/4): whoever shares too few 4-grams with everybody is alone, and no more is asked about it.
3. Two clusters whose members are all at least the threshold apart have an average at or above it. So the linkage runs
   inside each connected component of the pairs below the threshold.

Names: N texts, T tokens of all texts together.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import squareform

ORDERS = 4  # BLEU counts 1-grams to 4-grams
EPSILON = 0.1  # method 1 of Chen and Cherry (2014), "A Systematic Comparison of Smoothing Techniques", table 1
SLACK = 1e-9  # distances this close to the threshold are computed again, one by one, in nltk's order of operations
DENSE_SHARE = 1 / 16  # n-grams in more than this share of the texts are multiplied densely
CHUNK = 256  # questions compared with a whole memory at once

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def cluster_shares(questions: Sequence[str], *, threshold: float = 0.5) -> list[float]:
    """|C_k| / B for each question k, in (0, 1]; a question without a word is a cluster of its own.

    `threshold` in (0, 1] is the BLEU distance below which average linkage joins two clusters. A batch of one gets 1.0
    (the authors' function raises there, OFFICIAL_BUGS D5), an empty batch an empty list. The result depends on the
    order of the questions, as the authors' does (OFFICIAL_BUGS R7).
    """
    labels_N = cluster_labels(questions, threshold=threshold)
    sizes = np.bincount(labels_N, minlength=1)
    return [float(share) for share in sizes[labels_N] / max(1, len(questions))]


def cluster_labels(questions: Sequence[str], *, threshold: float = 0.5) -> Ints:
    """The cluster of each question (N,), named by the index of one of its members."""
    if not 0 < threshold <= 1:
        raise ValueError(f"repetition threshold must lie in (0, 1], got {threshold}; the paper uses 0.5")
    labels_N = np.arange(len(questions))
    texts = _Texts.of(questions)
    members = _with_possible_neighbours(texts, threshold=threshold)
    if not len(members):
        return labels_N
    distances = _distances(texts.subset(members))
    _settle_close_calls(distances, [questions[i] for i in members], threshold=threshold)
    for component in _components(distances < threshold):
        local = _average_linkage(distances[np.ix_(component, component)], threshold=threshold)
        labels_N[members[component]] = members[component][local]
    return labels_N


def bleu_distance(hypothesis: Sequence[str], reference: Sequence[str]) -> float:
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
    texts = _Texts.of([*questions, *past])
    earlier = texts.subset(np.arange(len(questions), len(questions) + len(past)))
    chunks = np.array_split(np.arange(len(questions)), -(-len(questions) // CHUNK))
    return [float(best) for rows in chunks for best in _bleu(texts.subset(rows), earlier).max(axis=1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Texts:
    """Token counts and, for n = 1..4, the 0/1 rows (N, columns) whose dot products are clipped n-gram matches."""

    lengths: Ints
    grams: tuple[csr_array, ...]

    @classmethod
    def of(cls, questions: Sequence[str]) -> _Texts:
        vocabulary: dict[str, int] = {}
        tokens = [[vocabulary.setdefault(word, len(vocabulary)) for word in text.split()] for text in questions]
        lengths_N = np.array([len(row) for row in tokens], dtype=np.int64)
        words_T = np.array([word for row in tokens for word in row], dtype=np.int64)
        owner_T = np.repeat(np.arange(len(questions)), lengths_N)
        ids, grams = words_T, []
        for order in range(1, ORDERS + 1):
            if order > 1:  # an n-gram is an (n-1)-gram and a word; renumbering keeps the product within 64 bits
                ids = np.unique(ids[:-1] * len(vocabulary) + words_T[order - 1 :], return_inverse=True)[1]
            inside = owner_T[: len(ids)] == owner_T[order - 1 :]
            grams.append(_incidence(ids[inside], owner_T[: len(ids)][inside], rows=len(questions)))
        return cls(lengths=lengths_N, grams=tuple(grams))

    def subset(self, members: Ints) -> _Texts:
        return _Texts(lengths=self.lengths[members], grams=tuple(gram[members] for gram in self.grams))


def _incidence(ids: Ints, owners: Ints, *, rows: int) -> csr_array:
    """0/1 rows with one column per (n-gram, k-th occurrence in its text); columns only one text has are left out."""
    order = np.lexsort((ids, owners))
    ids, owners = ids[order], owners[order]
    starts = np.flatnonzero(np.diff(ids, prepend=-1) | np.diff(owners, prepend=-1))
    run = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(ids)))
    occurrence = np.arange(len(ids)) - starts[run]
    _, columns, counts = np.unique(
        ids * (1 + occurrence.max(initial=0)) + occurrence, return_inverse=True, return_counts=True
    )
    shared = counts > 1
    kept = shared[columns]
    numbers = np.cumsum(shared) - 1
    cells = (owners[kept], numbers[columns[kept]])
    return csr_array((np.ones(len(cells[0]), dtype=np.float32), cells), shape=(rows, int(shared.sum())))


def _matches(left: csr_array, right: csr_array) -> NDArray[np.float32]:
    """Clipped n-gram matches of all pairs (rows of left, rows of right). Counts are exact in float32 up to 2^24."""
    in_texts = np.bincount(left.indices, minlength=left.shape[1]) + np.bincount(right.indices, minlength=right.shape[1])
    frequent = in_texts > max(2.0, DENSE_SHARE * (left.shape[0] + right.shape[0]))
    rare_columns, dense_columns = np.flatnonzero(~frequent), np.flatnonzero(frequent)
    left_columns, right_columns = left.tocsc(), right.tocsc()
    matches: NDArray[np.float32] = (
        left_columns[:, dense_columns].toarray() @ right_columns[:, dense_columns].toarray().T
    )
    product = (left_columns[:, rare_columns].tocsr() @ right_columns[:, rare_columns].tocsr().T).tocoo()
    matches[product.row, product.col] += product.data
    return matches


def _with_possible_neighbours(texts: _Texts, *, threshold: float) -> Ints:
    """The texts that share enough 4-grams with another one for their BLEU to exceed 1 - threshold."""
    lengths, kind_N = np.unique(texts.lengths, return_inverse=True)
    # p_4 must exceed ((1 - threshold) / brevity)^4; both sides are multiplied by the 4-grams of the hypothesis
    longer = np.maximum(lengths[None, :] / np.maximum(lengths, 1)[:, None] - 1, 0.0)
    needed = np.maximum(lengths - ORDERS + 1, 1)[:, None] * ((1 - threshold) * np.exp(np.minimum(longer, 20.0))) ** 4
    needed[lengths == 0, :] = needed[:, lengths == 0] = np.inf
    enough = np.maximum(_matches(texts.grams[-1], texts.grams[-1]), np.float32(EPSILON))
    enough = enough >= (needed * (1 - 1e-6)).astype(np.float32)[kind_N][:, kind_N]
    near = np.triu(enough, k=1)
    return np.flatnonzero(near.any(axis=0) | near.any(axis=1))


def _distances(texts: _Texts) -> Floats:
    """1 - BLEU of all pairs (N, N), symmetric, the lower index being the hypothesis; 0 on the diagonal."""
    distances: Floats = np.triu(1 - _bleu(texts, texts), k=1)
    return distances + distances.T


def _bleu(hypotheses: _Texts, references: _Texts) -> Floats:
    """Sentence BLEU of all pairs (hypotheses, references), to the last few bits."""
    lengths, others = hypotheses.lengths.astype(np.float64)[:, None], references.lengths.astype(np.float64)[None, :]
    power = np.ones((lengths.size, others.size))  # BLEU^4, so that the geometric mean is two square roots
    for order, (left, right) in enumerate(zip(hypotheses.grams, references.grams, strict=True), start=1):
        matches = _matches(left, right)
        power *= np.where(matches > 0, matches.astype(np.float64), 0.0 if order == 1 else EPSILON)
        power /= np.maximum(lengths - order + 1, 1)
    with np.errstate(under="ignore"):
        brevity = np.exp(np.minimum(1 - others / np.maximum(lengths, 1), 0.0))
    bleu: Floats = brevity * np.sqrt(np.sqrt(power))
    return bleu


def _settle_close_calls(distances: Floats, questions: Sequence[str], *, threshold: float) -> None:
    """Recompute in place the distances that rounding could put on the wrong side of the threshold."""
    for row, column in np.argwhere(np.triu(np.abs(distances - threshold) < SLACK, k=1)):
        exact = bleu_distance(questions[row].split(), questions[column].split())
        distances[row, column] = distances[column, row] = exact


def _components(near: NDArray[np.bool_]) -> Iterator[Ints]:
    """The members of each connected component of two or more."""
    near = near & ~np.eye(len(near), dtype=bool)
    count, label_N = connected_components(csr_array(near), directed=False)
    order = np.argsort(label_N, kind="stable")
    for members in np.split(order, np.cumsum(np.bincount(label_N, minlength=count))[:-1]):
        if len(members) > 1:
            yield members


def _average_linkage(distances: Floats, *, threshold: float) -> Ints:
    """For each member of a component the position of the first member of its cluster."""
    if len(distances) == 2:
        return np.zeros(2, dtype=np.int64)  # a component of two is a pair below the threshold
    merges = linkage(squareform(distances, checks=False), method="average")
    # fcluster cuts at "<="; the authors' library cuts at "<"
    labels = fcluster(merges, t=np.nextafter(threshold, 0.0), criterion="distance")
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return first[inverse]
