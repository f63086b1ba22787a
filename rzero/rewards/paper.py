"""The paper's two rewards (arXiv 2508.05004, sections 3.2 and 3.4; SPEC sections 4 and 6, column P)."""

from __future__ import annotations

from collections.abc import Sequence

from rzero.interfaces import Grader
from rzero.rewards.parts import Questions, Votes, repetition_penalties, well_formed
from rzero.types import RewardBreakdown


class PaperChallengerReward:
    """max(0, uncertainty - repetition) with uncertainty = 1 - 2 |p - 1/2|; 0 when the format is broken.

    p is the agreement of the Solver's vote: the reward is highest, 1, where the Solver is split in half. The format is
    right when the response holds a question and the Challenger's own answer. Totals lie in [0, 1].
    """

    def __init__(self, *, repetition_weight: float, repetition_threshold: float) -> None:
        self.repetition_weight = repetition_weight
        self.repetition_threshold = repetition_threshold

    def __call__(self, questions: Questions, votes: Votes) -> list[RewardBreakdown]:
        penalties = repetition_penalties(questions, weight=self.repetition_weight, threshold=self.repetition_threshold)
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
    """1 where the boxed answer equals the pseudo-label, else 0. A response without a box gets 0."""

    def __init__(self, grader: Grader) -> None:
        self.grader = grader

    def __call__(self, responses: Sequence[str], labels: Sequence[str]) -> list[RewardBreakdown]:
        answers = [self.grader.extract(response) or None for response in responses]
        classes = self.grader.classes([(label, answer or "") for label, answer in zip(labels, answers, strict=True)])
        breakdowns = []
        for answer, (_, own) in zip(answers, classes, strict=True):
            accuracy = float(answer is not None and own == 0)
            parts = {"accuracy": accuracy, "format": float(answer is not None)}
            breakdowns.append(RewardBreakdown(total=accuracy, parts=parts))
        return breakdowns
