"""One rollout engine for all processes of a run: each draws its share, or rank 0 has servers draw everything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rzero.processes.ranks import Ranks
from rzero.types import Group, Prompt, Sampling


class ShardedEngine:
    """A `RolloutEngine` in each of several processes that acts as one: everybody draws a share, everybody gets it all.

    The engine behind it takes `share=(part, parts)` and then draws only that part of the call's rows, each exactly as
    it would have without (same random numbers), so the groups do not depend on the number of processes.
    """

    def __init__(self, engine: Any, ranks: Ranks) -> None:
        self._engine, self._ranks = engine, ranks

    def sync(self, policy: Any) -> None:
        self._engine.sync(policy)

    def close(self) -> None:
        self._engine.close()

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling, progress: Any = None) -> list[Group]:
        share = (self._ranks.rank, self._ranks.size)
        mine = self._engine.generate(prompts, sampling, progress, share=share)
        parts = self._ranks.gather([group.completions for group in mine])
        # shares are consecutive rows, so putting them behind one another restores the order of samples
        return [
            replace(group, completions=tuple(completion for part in parts for completion in part[index]))
            for index, group in enumerate(mine)
        ]


class ServedEngine:
    """A `RolloutEngine` on servers, in each of several processes: rank 0 has them draw, everybody gets the groups.

    The engine behind it takes `ranks` in `sync`: every rank helps to put together weights that are split over them and
    to check the servers against the policy.
    """

    def __init__(self, engine: Any, ranks: Ranks) -> None:
        self._engine, self._ranks = engine, ranks

    def sync(self, policy: Any) -> None:
        self._engine.sync(policy, ranks=self._ranks)

    def close(self) -> None:
        self._engine.close()

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling, progress: Any = None) -> list[Group]:
        return self._ranks.shared(self._engine.generate)(prompts, sampling, progress)


def across(engine: Any, ranks: Ranks) -> Any:
    """An engine for all of several processes; itself when there is one.

    `engine.drawn_by` says which processes can draw from it: `each` its share, or the `first` for all. Raises ValueError
    for an engine that says something else or nothing: it serves one process.
    """
    if ranks.size == 1:
        return engine
    match getattr(engine, "drawn_by", None):
        case "each":
            return ShardedEngine(engine, ranks)
        case "first":
            return ServedEngine(engine, ranks)
        case _:
            raise ValueError(
                f"{type(engine).__name__} with these settings serves runs of one process: set trainer.devices=1, or "
                "use engine=vllm_server or embedded"
            )
