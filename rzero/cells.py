"""A partition of the space of questions that stays the same over a run's iterations.

The cells are the k-means clusters of what the first iteration posed, so they are a pure function of the question bank.

Shapes: N texts, K cells, E width of the vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.vq import vq
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

from rzero.interfaces import Embedder

Vectors = NDArray[np.float32]
RESTARTS = 8
"""k-means begins anew this often, and the partition with the smallest distances stays."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Cells:
    """Cells by their centres [K, E]; a vector belongs to the nearest one."""

    centres: NDArray[np.float64]

    @property
    def count(self) -> int:
        return len(self.centres)

    def of(self, vectors: Vectors) -> NDArray[np.int64]:
        """Returns the cell of each vector (N,)."""
        if not len(vectors):
            return np.zeros(0, dtype=np.int64)
        return vq(vectors.astype(np.float64), self.centres)[0].astype(np.int64)

    def shares(self, vectors: Vectors) -> NDArray[np.float64]:
        """Returns the share of the vectors in each cell (K,); all 0 without vectors."""
        counts = np.bincount(self.of(vectors), minlength=self.count)
        return counts / max(1, len(vectors))


def partition(vectors: Vectors, *, cells: int, seed: int) -> Cells:
    """Returns `cells` cells around the vectors (N, E), or as many as there are distinct ones where those are fewer.

    Raises ValueError without vectors.
    """
    distinct = np.unique(vectors.astype(np.float64), axis=0)
    if not len(distinct):
        raise ValueError("a partition needs at least one question")
    with threadpool_limits(1):  # several threads add up in any order, and the centres would differ in the last bits
        found = KMeans(min(cells, len(distinct)), n_init=RESTARTS, random_state=seed).fit(distinct)
    return Cells(centres=found.cluster_centers_)


def cells_of_first(texts: Sequence[str], *, embedder: Embedder, cells: int, seed: int) -> Cells:
    """Returns the cells of a run from the questions that its first iteration posed."""
    return partition(embedder.embed(list(dict.fromkeys(texts))), cells=cells, seed=seed)
