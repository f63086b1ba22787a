"""A partition of the space of questions that stays the same over a run's iterations.

The cells are the k-means clusters of what the first iteration posed, so they are a pure function of the question bank.

Shapes: N texts, K cells, E width of the vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.vq import vq
from sklearn.cluster import KMeans
from sklearn.metrics import silhouette_score
from threadpoolctl import threadpool_limits

from rzero.interfaces import Embedder

Vectors = NDArray[np.float32]
CellCount: TypeAlias = int | Sequence[int]
"""How many cells there are, or the numbers among which the questions decide."""
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


def partition(vectors: Vectors, *, cells: CellCount, seed: int) -> Cells:
    """Returns `cells` cells around the vectors (N, E), or as many as there are distinct ones where those are fewer.

    Of several numbers, the one whose cells stand apart most, by their mean silhouette (Rousseeuw 1987,
    https://doi.org/10.1016/0377-0427(87)90125-7). Raises ValueError without vectors.
    """
    distinct = np.unique(vectors.astype(np.float64), axis=0)
    if not len(distinct):
        raise ValueError("a partition needs at least one question")
    counts = sorted({min(count, len(distinct)) for count in ([cells] if isinstance(cells, int) else cells)})
    with threadpool_limits(1):  # several threads add up in any order, and the centres would differ in the last bits
        found = [KMeans(count, n_init=RESTARTS, random_state=seed).fit(distinct) for count in counts]
        chosen = found[0] if len(found) == 1 else max(found, key=lambda fit: _apart(distinct, fit))
    return Cells(centres=chosen.cluster_centers_)


def _apart(distinct: NDArray[np.float64], fit: KMeans) -> float:
    """The mean silhouette of clusters in [-1, 1]; -1 where each vector is a cluster of its own, which has none."""
    return float(silhouette_score(distinct, fit.labels_)) if fit.n_clusters < len(distinct) else -1.0


def fewest(cells: CellCount) -> int:
    """Returns the smallest number of cells that there may be; 0 where there is nothing to choose from."""
    return cells if isinstance(cells, int) else min(cells, default=0)


def cells_of_first(texts: Sequence[str], *, embedder: Embedder, cells: CellCount, seed: int) -> Cells:
    """Returns the cells of a run from the questions that its first iteration posed."""
    return partition(embedder.embed(list(dict.fromkeys(texts))), cells=cells, seed=seed)
