"""The Solver: asked the kept questions, paid for agreeing with their majority-vote labels (paper section 3.4)."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from rzero.interfaces import SolverReward
from rzero.modules.base import GRPOModule
from rzero.seeding import derive
from rzero.types import Group, LabelledQuestion, Prompt, RewardBreakdown


def voted_label(question: LabelledQuestion) -> str:
    """The pseudo-label: what the frozen Solver's vote settled on. ValueError for a question that was not kept."""
    if question.vote is None or question.vote.label is None:
        raise ValueError(f"question {question.index} of iteration {question.iteration} has no label; it was not kept")
    return question.vote.label


class Solver(GRPOModule[Sequence[LabelledQuestion]]):
    """A batch is a list of labelled questions; `ask` turns a question's text into the Solver's request.

    `label` says what responses to a question are compared with: its pseudo-label, in everything but a control.
    """

    stage = "solver"

    def __init__(
        self,
        *,
        ask: Callable[[str], Prompt],
        reward: SolverReward,
        label: Callable[[LabelledQuestion], str] = voted_label,
        **grpo: Any,
    ) -> None:
        super().__init__(**grpo)
        self.ask, self.reward, self.label = ask, reward, label

    def prompts(self, batch: Sequence[LabelledQuestion]) -> Sequence[Prompt]:
        return [self.ask(question.question) for question in batch]

    def pay(self, groups: Sequence[Group], batch: Sequence[LabelledQuestion]) -> list[list[RewardBreakdown]]:
        responses = [[completion.text for completion in group.completions] for group in groups]
        return self.reward(responses, [self.label(question) for question in batch])

    def spare(self, batch: Sequence[LabelledQuestion], *, start: int, count: int) -> Sequence[LabelledQuestion]:
        """Questions of the phase that are not in this batch, in random order; none when all have been asked."""
        asked = set(batch)
        phase = dict.fromkeys(question for other in self.batches for question in other)
        others = [question for question in phase if question not in asked]
        order = random.Random(derive(self.seed, "spare", self.rollouts_done)).sample(others, len(others))
        return order[start : start + count]
