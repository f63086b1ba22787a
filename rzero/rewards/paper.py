"""The paper's two rewards (arXiv 2508.05004, sections 3.2 and 3.4; docs/method.md#challenger and #solver)."""

from __future__ import annotations

from collections.abc import Sequence

from rzero.interfaces import Grader, Responses
from rzero.repetition import cluster_shares
from rzero.rewards.parts import Questions, Repetition, Votes, repetition_penalties, well_formed
from rzero.types import RewardBreakdown


class PaperChallengerReward:
    """max(0, uncertainty - repetition) with uncertainty = 1 - 2 |p - 1/2|; 0 when the format is broken.

    p is the agreement of the Solver's vote: the reward is highest, 1, where the Solver is split in half. The format is
    right when the response holds a question and the Challenger's own answer. Totals lie in [0, 1].
    """

    def __init__(
        self, *, repetition_weight: float, repetition_threshold: float, repetition: Repetition = cluster_shares
    ) -> None:
        self.repetition_weight = repetition_weight
        self.repetition_threshold = repetition_threshold
        self.repetition = repetition

    def __call__(self, questions: Questions, votes: Votes) -> list[RewardBreakdown]:
        penalties = repetition_penalties(
            questions,
            weight=self.repetition_weight,
            threshold=self.repetition_threshold,
            repetition=self.repetition,
        )
        breakdowns = []
        for question, vote, penalty in zip(questions, votes, penalties, strict=True):
            right = well_formed(question)
            uncertainty = 1 - 2 * abs(vote.agreement - 0.5) if right and vote is not None else 0.0
            breakdowns.append(
                RewardBreakdown(
                    total=max(0.0, uncertainty - penalty) if right else 0.0,
                    parts={"uncertainty": uncertainty, "repetition": penalty, "format": float(right)},
                )
            )
        return breakdowns


class PaperSolverReward:
    """1 where the boxed answer is the same as the pseudo-label, else 0. A response without a box gets 0.

    Label and answers are read as answers to one question (`Grader.classes`), as in the vote that gave the label.
    """

    def __init__(self, grader: Grader) -> None:
        self.grader = grader

    def __call__(self, groups: Responses, labels: Sequence[str]) -> list[list[RewardBreakdown]]:
        answers = [[self.grader.extract(response) or None for response in group] for group in groups]
        ballots = [[label, *(answer or "" for answer in group)] for group, label in zip(answers, labels, strict=True)]
        return [
            [
                _pay(answered=answer is not None, right=answer is not None and number == classes[0])
                for answer, number in zip(group, classes[1:], strict=True)
            ]
            for group, classes in zip(answers, self.grader.classes(ballots), strict=True)
        ]


def _pay(*, answered: bool, right: bool) -> RewardBreakdown:
    return RewardBreakdown(total=float(right), parts={"accuracy": float(right), "format": float(answered)})
