"""The Challenger: asked for a question, paid by how uncertain the frozen Solver is about it (paper section 3.2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rzero.interfaces import ChallengerReward
from rzero.modules.base import GRPOModule
from rzero.types import Group, Prompt, Question, RewardBreakdown, Sampling, Vote

AskSolver = Callable[[Sequence[Question | None], int], list[Vote | None]]
"""Puts questions to the frozen Solver in a step and returns one vote per question (None where there was none)."""

AskMeanwhile = Callable[[Sequence[Prompt], Sampling, int], tuple[list[Group], list[Vote | None]] | None]
"""Draws the groups of a step, and the votes on the questions in them while others are still being drawn.

The same groups and votes as one after the other; None where the two policies cannot be drawn from at once.
"""


def one_after_the_other(prompts: Sequence[Prompt], sampling: Sampling, step: int) -> None:
    """An `AskMeanwhile` for engines that draw from one policy at a time."""


class Challenger(GRPOModule[int]):
    """All groups answer one identical request; a group's members are compared with one another.

    A batch is the number of its step, which nothing depends on.

    parse: from a response to a question (None: broken format). ask_solver: the vote of the frozen Solver.
    ask_meanwhile: that vote while the rest of the step is still being drawn; tried first.
    """

    stage = "challenger"

    def __init__(
        self,
        *,
        request: Prompt,
        parse: Callable[[str], Question | None],
        ask_solver: AskSolver,
        reward: ChallengerReward,
        ask_meanwhile: AskMeanwhile = one_after_the_other,
        **grpo: Any,
    ) -> None:
        super().__init__(**grpo)
        self.request, self.parse, self.ask_solver, self.reward = request, parse, ask_solver, reward
        self.ask_meanwhile = ask_meanwhile
        self._votes: list[Vote | None] | None = None

    def prompts(self, batch: int) -> Sequence[Prompt]:
        return [self.request] * self.settings.prompts_per_step

    def draw(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Group]:
        """The votes come along where both policies can be drawn from at once; `pay` asks for them where not."""
        together = self.ask_meanwhile(prompts, sampling, self.rollouts_done)
        if together is None:
            self._votes = None
            return super().draw(prompts, sampling)
        groups, self._votes = together
        return groups

    def pay(self, groups: Sequence[Group], batch: int) -> list[list[RewardBreakdown]]:
        """Rewards over the whole step at once: the repetition penalty compares every question with every other."""
        questions = [self.parse(completion.text) for group in groups for completion in group.completions]
        votes = self.ask_solver(questions, self.rollouts_done) if self._votes is None else self._votes
        rewards = iter(self.reward(questions, votes))
        return [[next(rewards) for _ in group.completions] for group in groups]

    def spare(self, batch: int, *, start: int, count: int) -> int:
        """The one request again."""
        return batch
