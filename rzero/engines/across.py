"""One rollout engine for all processes of a run: each draws its share, or rank 0 has servers draw everything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rzero.interfaces import (
    Ask,
    AskingEngine,
    DistributedEngine,
    Progress,
    RolloutEngine,
    ServableEngine,
    ShardableEngine,
)
from rzero.policy import Policy
from rzero.processes.ranks import Ranks
from rzero.types import Group, Prompt, Sampling


class ShardedEngine:
    """A `RolloutEngine` in each of several processes that acts as one: everybody draws a share, everybody gets it all.

    Each completion is drawn with the same random numbers as without shares, so groups do not depend on the number of
    processes.
    """

    def __init__(self, engine: ShardableEngine, ranks: Ranks) -> None:
        self._engine, self._ranks = engine, ranks

    def sync(self, policy: Policy) -> None:
        self._engine.sync(policy)

    def close(self) -> None:
        self._engine.close()

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, progress: Progress | None = None
    ) -> list[Group]:
        share = (self._ranks.rank, self._ranks.size)
        mine = self._engine.generate(prompts, sampling, progress=progress, share=share)
        parts = self._ranks.gather([group.completions for group in mine])
        # shares are consecutive rows, so putting them behind one another restores the order of samples
        return [
            replace(group, completions=tuple(completion for part in parts for completion in part[index]))
            for index, group in enumerate(mine)
        ]


class ServedEngine:
    """A `RolloutEngine` on servers, in each of several processes: rank 0 has them draw, everybody gets the groups."""

    def __init__(self, engine: ServableEngine, ranks: Ranks) -> None:
        self._engine, self._ranks = engine, ranks

    def sync(self, policy: Policy) -> None:
        self._engine.sync(policy, ranks=self._ranks)

    def close(self) -> None:
        self._engine.close()

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, progress: Progress | None = None
    ) -> list[Group]:
        return self._ranks.shared(self._engine.generate)(prompts, sampling, progress=progress)

    def rest(self) -> None:
        """Rank 0 has the servers give memory back; afterwards it is there on all devices."""
        self._ranks.shared(self._engine.rest)()

    def texts(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, progress: Progress | None = None
    ) -> list[list[str]]:
        """The texts of `generate` alone, which are all that is handed on."""
        return self._ranks.shared(self._engine.texts)(prompts, sampling, progress=progress)

    def beside(self, other: RolloutEngine) -> bool:
        """Returns whether rank 0 can draw from both at once."""
        engine = self._engine
        if not isinstance(engine, AskingEngine) or not isinstance(other, ServedEngine):
            return False
        return self._ranks.shared(engine.beside)(other._engine)

    def generate_and_ask(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        *,
        ask: Ask,
        other: RolloutEngine,
        answers: Sampling,
        progress: Progress | None = None,
    ) -> tuple[list[Group], list[list[str] | None]]:
        """As that of the engine that rank 0 has."""
        engine = self._engine
        assert isinstance(engine, AskingEngine)
        assert isinstance(other, ServedEngine)
        draw = self._ranks.shared(engine.generate_and_ask)
        return draw(prompts, sampling, ask=ask, other=other._engine, answers=answers, progress=progress)


def across(engine: RolloutEngine, ranks: Ranks) -> RolloutEngine:
    """Returns an engine for all of several processes; the engine itself when there is one.

    Raises ValueError for an engine that serves one process only.
    """
    if ranks.size == 1:
        return engine
    if not isinstance(engine, DistributedEngine):
        raise ValueError(one_process_only(engine))
    return engine.across(ranks)


def one_process_only(engine: RolloutEngine) -> str:
    """Returns the complaint about an engine that several processes cannot use."""
    return (
        f"{type(engine).__name__} with these settings serves runs of one process: set trainer.devices=1, or use "
        "engine=vllm_server or embedded"
    )
