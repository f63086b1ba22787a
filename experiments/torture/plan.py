"""Where runs are killed: at every boundary by name, at random instants, at random system calls."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from omegaconf import DictConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class AtBoundary:
    """Just before or just after something is committed: a stage, or the checkpoint after a step of one."""

    stage: str
    step: int | None
    """None: the stage itself is committed."""
    after: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class AtInstant:
    """So many seconds after the process began."""

    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AtCall:
    """Just before the n-th fsync or rename of the process: the windows that no clock hits."""

    number: int


Kill = AtBoundary | AtInstant | AtCall

RECOVERY = 0.1
"""Up to this share of an untouched run's time an attempt is still reading what an earlier one left."""
CALLS = 60
"""Upper bound of the system calls to choose from; an attempt that makes fewer ends unharmed and is not counted."""


def boundaries(cfg: DictConfig) -> list[AtBoundary]:
    """All of a run's commits, in their order, each with the moment before and the moment after it."""
    found = []
    for iteration in range(cfg.iterations + 1):
        for kind in ("challenger", "questions", "solver", "evaluation") if iteration else ("evaluation",):
            steps = cfg[kind].settings.steps if kind in ("challenger", "solver") else 0
            every = cfg.checkpoint_every
            commits = [*(range(every, steps, every) if every else ()), None]
            for step in commits:
                found += [AtBoundary(stage=f"{iteration}/{kind}", step=step, after=after) for after in (False, True)]
    return found


def plan(cfg: DictConfig, *, kills: int, seed: int, seconds: float) -> list[Kill]:
    """`kills` of them: all boundaries (or, where there are more, a sample for half of the kills), then random ones.

    `seconds` is how long an untouched run takes. A third of the random instants fall into the recovery.
    """
    rng = random.Random(seed)
    every = boundaries(cfg)
    if len(every) > kills:
        every = [every[index] for index in sorted(rng.sample(range(len(every)), (kills + 1) // 2))]
    return [*every, *(_random_kill(rng, seconds) for _ in range(kills - len(every)))]


def _random_kill(rng: random.Random, seconds: float) -> Kill:
    kind = rng.randrange(3)
    if kind == 0:
        return AtInstant(seconds=rng.uniform(0, RECOVERY * seconds))
    if kind == 1:
        return AtInstant(seconds=rng.uniform(RECOVERY * seconds, seconds))
    return AtCall(number=rng.randrange(1, CALLS))


def sooner(kill: Kill) -> Kill:
    """The kill for the next run when this one had ended before: a machine that got faster would never be hit again."""
    if isinstance(kill, AtInstant):
        return AtInstant(seconds=kill.seconds / 2)
    if isinstance(kill, AtCall):
        return AtCall(number=(kill.number + 1) // 2)
    return kill


def in_recovery(kills: Sequence[Kill], *, seconds: float) -> int:
    """How many of them hit a process that was still reading what an earlier one left."""
    return sum(isinstance(kill, AtInstant) and kill.seconds < RECOVERY * seconds for kill in kills)
