"""Soft votes for the Solver (after RESTRAIN, arXiv 2510.02172: pseudo-label weighting; online votes as in TTRL).

With a hard pseudo-label a wrong majority pays nothing to the right minority. Here each response earns the weight of its
own answer in the distribution of its group.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from rzero.interfaces import Grader, Responses
from rzero.types import RewardBreakdown


class SoftVoteSolverReward:
    """n_a^sharpness / sum_b n_b^sharpness for a response with answer a; 0 without a box. Totals lie in [0, 1].

    n counts the equal answers among the responses to one question; the pseudo-label enters with `label_votes` votes of
    its own. Sharpness 1 is the plain share; towards infinity it is the majority vote of the group. `accuracy` in the
    parts is the hard one, against the label.
    """

    def __init__(self, grader: Grader, *, label_votes: int, sharpness: float) -> None:
        if label_votes < 1:
            raise ValueError(f"solver_reward.label_votes must be at least 1, got {label_votes}")
        if sharpness <= 0:
            raise ValueError(f"solver_reward.sharpness must be positive, got {sharpness}; 1 is the plain share")
        self.grader = grader
        self.label_votes = label_votes
        self.sharpness = sharpness

    def __call__(self, groups: Responses, labels: Sequence[str]) -> list[list[RewardBreakdown]]:
        answers = [[self.grader.extract(response) or None for response in group] for group in groups]
        ballots = [
            [label] * self.label_votes + [answer for answer in group if answer]
            for group, label in zip(answers, labels, strict=True)
        ]
        classes = self.grader.classes(ballots)
        return [
            self._pay(group, dict(zip(ballot, numbers, strict=True)), Counter(numbers))
            for group, ballot, numbers in zip(answers, ballots, classes, strict=True)
        ]

    def _pay(
        self, answers: list[str | None], classes: Mapping[str, int], counts: Mapping[int, int]
    ) -> list[RewardBreakdown]:
        total = sum(count**self.sharpness for count in counts.values())
        breakdowns = []
        for answer in answers:
            own = classes[answer] if answer else None
            paid = counts[own] ** self.sharpness / total if own is not None else 0.0
            parts = {"accuracy": float(own == 0), "format": float(answer is not None)}  # the label's class is the first
            breakdowns.append(RewardBreakdown(total=paid, parts=parts))
        return breakdowns
