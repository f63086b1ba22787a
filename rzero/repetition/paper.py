"""How much of a batch each question repeats, as published: clusters of texts with similar blank-separated words.

docs/method.md#repetition. Average linkage joins clusters closer than the threshold (strictly), and question k
is charged |C_k| / B. A text of fewer than four words is far from its own copy, and a language without blanks has one
word to a text: `rzero.repetition.any_language` mends both.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rzero.repetition.bleu import Ints, Texts, distances, with_possible_neighbours
from rzero.repetition.clusters import check_threshold, join, shares


def cluster_shares(questions: Sequence[str], *, threshold: float = 0.5) -> list[float]:
    """|C_k| / B for each question k, in (0, 1]; a question without a word is a cluster of its own.

    `threshold` in (0, 1] is the BLEU distance below which average linkage joins two clusters. A batch of one gets 1.0
    (the authors' function raises there: docs/authors_code.md, D5), an empty batch an empty list. The result depends on
    the order of the questions, as the authors' does (R7 there).
    """
    return shares(cluster_labels(questions, threshold=threshold))


def cluster_labels(questions: Sequence[str], *, threshold: float = 0.5) -> Ints:
    """The cluster of each question (N,), named by the index of one of its members."""
    check_threshold(threshold)
    labels_N = np.arange(len(questions))
    words = [question.split() for question in questions]
    texts = Texts.of(words)
    members = with_possible_neighbours(texts, threshold=threshold)
    if len(members):
        apart = distances(texts[members], [words[i] for i in members], threshold=threshold)
        labels_N[members] = members[join(apart, threshold=threshold)]
    return labels_N
