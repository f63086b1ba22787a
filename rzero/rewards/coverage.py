"""Coverage of a partition that persists over iterations (the idea of Prism, arXiv 2603.13309).

Surface repetition does not see a Challenger that poses ever new questions of one kind. Kinds are cells of the space of
embeddings here, the same ones in all iterations, and a question pays the less the fuller its cell is.
"""

from __future__ import annotations

from rzero.cells import CellCount, Cells, cells_of_first, fewest
from rzero.interfaces import ChallengerReward, Embedder, QuestionBank
from rzero.rewards.parts import Questions, Votes, past_questions
from rzero.types import RewardBreakdown


class Coverage:
    """`reward` times min(1, fair / share)^strength, where its total is positive.

    share: how much of what was posed lies in the question's cell, the mean of this batch's share and of that of all
    earlier iterations; fair: 1 / number of cells. The first iteration, whose questions make the cells, is paid as by
    `reward`. `parts` gains `coverage`, the factor.
    """

    def __init__(
        self,
        bank: QuestionBank,
        embedder: Embedder,
        *,
        reward: ChallengerReward,
        cells: CellCount,
        strength: float,
        seed_of_cells: int,
    ) -> None:
        if fewest(cells) < 2 or strength < 0:
            raise ValueError(
                f"challenger_reward needs cells >= 2 and strength >= 0, got {cells} and {strength}; 12 and 1 are usual"
            )
        self.bank, self.embedder, self.reward = bank, embedder, reward
        self.cells, self.strength, self.seed_of_cells = cells, strength, seed_of_cells
        self._known: tuple[Cells, list[float]] | None = None

    def __call__(self, questions: Questions, votes: Votes) -> list[RewardBreakdown]:
        paid = self.reward(questions, votes)
        factors = self._factors(["" if question is None else question.text for question in questions])
        return [
            RewardBreakdown(
                total=item.total * factor if item.total > 0 else item.total, parts={**item.parts, "coverage": factor}
            )
            for item, factor in zip(paid, factors, strict=True)
        ]

    def _factors(self, texts: list[str]) -> list[float]:
        known = self._known = self._known or self._of_bank()
        posed = [text for text in texts if text]
        if known is None or not posed:
            return [1.0] * len(texts)
        cells, past = known
        of_posed = cells.of(self.embedder.embed(posed))
        counts = [int((of_posed == cell).sum()) for cell in range(cells.count)]
        shares = [(count / len(posed) + before) / 2 for count, before in zip(counts, past, strict=True)]
        factors = iter([min(1.0, 1 / (cells.count * shares[cell])) ** self.strength for cell in of_posed])
        return [next(factors) if text else 1.0 for text in texts]

    def _of_bank(self) -> tuple[Cells, list[float]] | None:
        """The cells, and the share of all earlier iterations' questions in each; None before the first is over."""
        past = past_questions(self.bank)
        if not past:
            return None
        cells = cells_of_first(past[0], embedder=self.embedder, cells=self.cells, seed=self.seed_of_cells)
        everything = [text for texts in past for text in texts]
        return cells, cells.shares(self.embedder.embed(everything)).tolist()
