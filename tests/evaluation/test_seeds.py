"""Means over seeds and their intervals, against values worked by hand from a table of Student's t."""

from __future__ import annotations

import pytest

from evaluation.seeds import over_seeds


def test_three_seeds() -> None:
    """mean 2, s = 1, t(0.975, 2) = 4.302653: half width 4.302653 / sqrt(3) = 2.484138."""
    estimate = over_seeds([1.0, 2.0, 3.0])
    assert (estimate.mean, estimate.seeds) == (2.0, 3)
    assert (estimate.low, estimate.high) == pytest.approx((2 - 2.484138, 2 + 2.484138), abs=1e-6)
    # t = 2 sqrt(3) with two degrees of freedom: F(t) = 1/2 + t / (2 sqrt(2 + t^2))
    assert estimate.positive == pytest.approx(0.5 + 2 * 3**0.5 / (2 * 14**0.5))


def test_one_seed_has_no_interval_and_none_is_refused() -> None:
    single = over_seeds([1.5])
    assert (single.mean, single.low, single.high, single.positive) == (1.5, None, None, None)
    with pytest.raises(ValueError, match="at least one seed"):
        over_seeds([])


@pytest.mark.parametrize(("value", "sure"), [(2.0, 1.0), (0.0, 0.5), (-1.0, 0.0)])
def test_equal_seeds_have_an_interval_without_width(value: float, sure: float) -> None:
    estimate = over_seeds([value, value])
    assert (estimate.low, estimate.high, estimate.positive) == (value, value, sure)
