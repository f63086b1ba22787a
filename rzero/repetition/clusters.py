"""Agglomerative clustering with average linkage under a strict threshold, as scikit-learn cuts it.

Two clusters whose members are all at least the threshold apart have an average at or above it. So the linkage runs
inside each connected component of the pairs below the threshold.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import squareform

from rzero.repetition.bleu import Floats, Ints


def join(distances: Floats, *, threshold: float) -> Ints:
    """For each text (N,) the position of the first member of its cluster, from distances (N, N)."""
    labels_N = np.arange(len(distances))
    for component in _components(distances < threshold):
        local = _average_linkage(distances[np.ix_(component, component)], threshold=threshold)
        labels_N[component] = component[local]
    return labels_N


def shares(labels_N: Ints) -> list[float]:
    """|C_k| / N of each text, in (0, 1]."""
    sizes = np.bincount(labels_N, minlength=1)
    return [float(share) for share in sizes[labels_N] / max(1, len(labels_N))]


def check_threshold(threshold: float) -> None:
    if not 0 < threshold <= 1:
        raise ValueError(f"repetition threshold must lie in (0, 1], got {threshold}; the paper uses 0.5")


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
