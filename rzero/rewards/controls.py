"""Rewards that know nothing of the method: what any run must beat (spurious rewards, arXiv 2506.10947)."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence

from rzero.boxes import last_boxed
from rzero.interfaces import Responses
from rzero.rewards.parts import Questions, Votes, well_formed
from rzero.turns import own_turn
from rzero.types import RewardBreakdown


class RandomChallengerReward:
    """A number in [0, 1) that depends on the seed, the position in the batch and the text, on nothing else."""

    def __init__(self, *, seed: int) -> None:
        self.seed = seed

    def __call__(self, questions: Questions, votes: Votes) -> list[RewardBreakdown]:
        breakdowns = []
        for position, question in enumerate(questions):
            total = _drawn(self.seed, position, "" if question is None else question.text)
            parts = {"uncertainty": total, "repetition": 0.0, "format": float(well_formed(question))}
            breakdowns.append(RewardBreakdown(total=total, parts=parts))
        return breakdowns


class RandomSolverReward:
    """A number in [0, 1) that depends on the seed, the position in the batch and the response, on nothing else."""

    def __init__(self, *, seed: int) -> None:
        self.seed = seed

    def __call__(self, groups: Responses, labels: Sequence[str]) -> list[list[RewardBreakdown]]:
        positions = itertools.count()
        return [[self._pay(next(positions), response) for response in group] for group in groups]

    def _pay(self, position: int, response: str) -> RewardBreakdown:
        total = _drawn(self.seed, position, response)
        return RewardBreakdown(total=total, parts={"accuracy": total, "format": float(_boxes(response))})


class FormatChallengerReward:
    """1 where the response holds a question and an answer, else 0."""

    def __call__(self, questions: Questions, votes: Votes) -> list[RewardBreakdown]:
        totals = [float(well_formed(question)) for question in questions]
        return [
            RewardBreakdown(total=total, parts={"uncertainty": 0.0, "repetition": 0.0, "format": total})
            for total in totals
        ]


class FormatSolverReward:
    """1 where the response holds a closed, non-empty box, else 0."""

    def __call__(self, groups: Responses, labels: Sequence[str]) -> list[list[RewardBreakdown]]:
        totals = [[float(_boxes(response)) for response in group] for group in groups]
        return [
            [RewardBreakdown(total=total, parts={"accuracy": 0.0, "format": total}) for total in group]
            for group in totals
        ]


def _boxes(response: str) -> bool:
    return last_boxed(own_turn(response)) is not None


def _drawn(seed: int, position: int, text: str) -> float:
    # a hash, not a generator: the same batch pays the same after a resume, whatever was drawn before
    digest = hashlib.blake2b(f"{seed} {position} {text}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2.0**64
