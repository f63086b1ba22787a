"""The Challenger: asked for a question, paid by how uncertain the frozen Solver is about it (paper section 3.2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rzero.interfaces import ChallengerReward
from rzero.modules.base import GRPOModule
from rzero.types import Group, Prompt, Question, RewardBreakdown, Vote

AskSolver = Callable[[Sequence[Question | None], int], list[Vote | None]]
"""Puts questions to the frozen Solver under a seed and returns one vote per question (None where there was none)."""


class Challenger(GRPOModule[int]):
    """All groups answer one identical request; a group's members are compared with one another.

    A batch is the number of its step, which nothing depends on.

    parse: from a response to a question (None: broken format). ask_solver: the vote of the frozen Solver.
    """

    stage = "challenger"

    def __init__(
        self,
        *,
        request: Prompt,
        parse: Callable[[str], Question | None],
        ask_solver: AskSolver,
        reward: ChallengerReward,
        **grpo: Any,
    ) -> None:
        super().__init__(**grpo)
        self.request, self.parse, self.ask_solver, self.reward = request, parse, ask_solver, reward

    def prompts(self, batch: int) -> Sequence[Prompt]:
        return [self.request] * self.settings.prompts_per_step

    def pay(self, groups: Sequence[Group], batch: int) -> list[list[RewardBreakdown]]:
        """Rewards over the whole step at once: the repetition penalty compares every question with every other."""
        questions = [self.parse(completion.text) for group in groups for completion in group.completions]
        votes = self.ask_solver(questions, self.rollouts_done)
        rewards = iter(self.reward(questions, votes))
        return [[next(rewards) for _ in group.completions] for group in groups]

    def spare(self, batch: int, *, start: int, count: int) -> int:
        """The one request again."""
        return batch
