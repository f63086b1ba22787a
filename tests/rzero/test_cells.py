"""A partition of questions: by hand on three kinds that lie at right angles."""

from __future__ import annotations

import numpy as np
import pytest

from rzero.cells import cells_of_first, fewest, partition
from tests.rzero.kinds import Letters


def test_the_cells_of_three_kinds_are_the_kinds() -> None:
    texts = ["a1", "b1", "b2", "c1", "b1"]
    cells = cells_of_first(texts, embedder=Letters(), cells=3, seed=0)
    assert cells.count == 3
    of_a, of_b, of_b_too, of_c = cells.of(Letters().embed(["a9", "b9", "b8", "c9"])).tolist()
    assert of_b == of_b_too
    assert len({of_a, of_b, of_c}) == 3
    assert sorted(cells.shares(Letters().embed(["a", "a", "a", "c"])).tolist()) == [0.0, 0.25, 0.75]


def test_there_are_no_more_cells_than_different_questions() -> None:
    assert cells_of_first(["a1", "a2", "b"], embedder=Letters(), cells=12, seed=0).count == 2
    assert partition(np.eye(3, dtype=np.float32), cells=3, seed=0).shares(np.zeros((0, 3), np.float32)).sum() == 0
    with pytest.raises(ValueError, match="at least one question"):
        partition(np.zeros((0, 3), np.float32), cells=3, seed=0)


def test_the_same_questions_make_the_same_cells() -> None:
    vectors = np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32)
    first, second = (partition(vectors, cells=7, seed=3) for _ in range(2))
    assert first.centres.tobytes() == second.centres.tobytes()


def test_of_several_numbers_the_cells_that_stand_apart_count() -> None:
    """Three clouds around the axes, each of six points that are near one another."""
    generator = np.random.default_rng(5)
    clouds = np.repeat(np.eye(3), 6, axis=0) + 0.05 * generator.normal(size=(18, 3))
    cells = partition(clouds.astype(np.float32), cells=[2, 3, 4, 6, 12], seed=0)
    assert cells.count == 3
    assert [len(set(cells.of(clouds[first : first + 6].astype(np.float32)))) for first in (0, 6, 12)] == [1, 1, 1]
    assert partition(np.eye(2, dtype=np.float32), cells=[2, 3], seed=0).count == 2
    assert (fewest(12), fewest([4, 2, 3]), fewest([])) == (12, 2, 0)
