"""Rows of a batch that joined it at about the same step, and which columns of their own caches they attend to.

Caches have a column per step. A row that joined late has nothing in the columns before, so rows of one age are attended
to together, over columns that they have.

Shapes: R rows times key heads, C columns.
"""

# ruff: noqa: N815 (fields carry their shape as a suffix, like every other tensor name)

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

SAME_COHORT = 0.125
"""Rows are attended to together unless one misses more than this share of the columns that another has."""


@dataclass(frozen=True, slots=True)
class Own:
    """What the new tokens of some rows attend to in their own caches: columns, and what is added (None: nothing)."""

    rows_R: slice
    columns: slice
    bias_R1C: Tensor | None


@dataclass(frozen=True, slots=True)
class Cohort:
    """Rows side by side, and the steps at which the first and the last of them joined."""

    rows_R: slice
    oldest: int
    youngest: int

    def own(self, start_R: Tensor, *, end: int, window: int | None) -> Own:
        """Columns up to `end`, of which a row has those from its start on; of a window the last so many."""
        first = self.oldest if window is None else max(self.oldest, end - window)
        if self.youngest <= first:
            return Own(self.rows_R, slice(first, end), None)
        before_RC = torch.arange(first, end, device=start_R.device) < start_R[self.rows_R, None]
        bias_RC = torch.zeros(before_RC.shape, device=start_R.device).masked_fill_(before_RC, -torch.inf)
        return Own(self.rows_R, slice(first, end), bias_RC[:, None])


def cohorts(starts: Sequence[int], *, now: int, heads: int) -> list[Cohort]:
    """Returns the rows cut where too many columns would be empty. starts: when each joined, the oldest first."""
    firsts: list[int] = []
    for row, start in enumerate(starts):
        if not firsts or start - starts[firsts[-1]] > SAME_COHORT * (now - starts[firsts[-1]]):
            firsts.append(row)
    return [
        Cohort(slice(first * heads, end * heads), oldest=starts[first], youngest=starts[end - 1])
        for first, end in pairwise([*firsts, len(starts)])
    ]
