"""The rank of this process among those of a run, and what they hand one another.

Every process of a run executes the same self-play (SPMD). Text is shared: each process draws its share of a
rollout or is handed what servers drew (`rzero.engines.across`), so each sees the same groups and makes the same
decisions. What judges text (votes, rewards, curriculum) runs on rank 0 only and is handed on (`Ranks.shared`), and only
rank 0 writes.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

import torch.distributed as dist

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranks:
    """This process (`rank`, from 0) among the `size` of a run. All ranks call the methods, in the same order.

    group: what objects are handed on through; None: the default process group.
    """

    rank: int = 0
    size: int = 1
    group: dist.ProcessGroup | None = None

    @property
    def first(self) -> bool:
        """True for the process that writes."""
        return self.rank == 0

    def gather(self, value: T) -> list[T]:
        """Returns every rank's value, in the order of ranks."""
        if self.size == 1:
            return [value]
        values = [value] * self.size
        dist.all_gather_object(values, value, group=self.group)
        return values

    def from_first(self, value: Any) -> Any:
        """Returns the value of rank 0."""
        values = [value]
        dist.broadcast_object_list(values, src=0, group=self.group)
        return values[0]

    def shared(self, function: Callable[P, T]) -> Callable[P, T]:
        """Returns `function` as one that is called on rank 0 alone; every rank returns what it returned there.

        An exception is raised on rank 0 only; the others are ended when rank 0 leaves `launch`.
        """
        if self.size == 1:
            return function

        def ask_first(*args: P.args, **kwargs: P.kwargs) -> T:
            result: T = self.from_first(function(*args, **kwargs) if self.first else None)
            return result

        return ask_first


def joined(ranks: Ranks) -> Callable[[], AbstractContextManager[Ranks]]:
    """A run among processes whose group this one is in already."""
    return lambda: nullcontext(ranks)


def alone() -> AbstractContextManager[Ranks]:
    """A run in this process only."""
    return nullcontext(Ranks())
