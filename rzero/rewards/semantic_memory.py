"""A memory of earlier iterations by meaning (R-Diverse's memory-augmented penalty, arXiv 2602.13103).

The nearest remembered question says whether this one was posed before, the mean over all of them whether its whole kind
was. R-Diverse embeds the code that solves a question; here it is the question's own text (`rzero.interfaces.Embedder`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rzero.interfaces import ChallengerReward, Embedder, QuestionBank
from rzero.rewards.parts import Questions, Votes, past_questions, require_range, unless_negative
from rzero.types import RewardBreakdown


class SemanticMemory:
    """`reward` minus max_weight * (largest cosine, if above `similar_above`) minus mean_weight * max(0, mean cosine).

    Cosines are taken to what the bank holds, dropped questions included, about the mean of the first iteration's
    questions: a language model's states share a large common part. No positive reward is pushed below 0. `parts` gains
    `memory`, the charge; the first iteration remembers nothing.
    """

    def __init__(
        self,
        bank: QuestionBank,
        embedder: Embedder,
        *,
        reward: ChallengerReward,
        max_weight: float,
        mean_weight: float,
        similar_above: float,
    ) -> None:
        if max_weight < 0 or mean_weight < 0:
            raise ValueError(
                f"challenger_reward.max_weight and mean_weight must be 0 or positive, got {max_weight}, {mean_weight}"
            )
        self.bank, self.embedder, self.reward = bank, embedder, reward
        self.max_weight, self.mean_weight = max_weight, mean_weight
        self.similar_above = require_range("challenger_reward.similar_above", similar_above, low=-1, high=1)
        self._known: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None

    def __call__(self, questions: Questions, votes: Votes) -> list[RewardBreakdown]:
        charges = self._charges(["" if question is None else question.text for question in questions])
        paid = self.reward(questions, votes)
        return [unless_negative(item, charge=charge, part="memory") for item, charge in zip(paid, charges, strict=True)]

    def _charges(self, texts: list[str]) -> list[float]:
        known = self._known = self._known or self._of_bank()
        posed = [text for text in texts if text]
        if known is None or not posed:
            return [0.0] * len(texts)
        centre, remembered = known
        cosines = centred(self.embedder.embed(posed), centre) @ remembered.T
        nearest, mean = cosines.max(axis=1), cosines.mean(axis=1)
        charged = self.max_weight * np.where(nearest > self.similar_above, nearest, 0.0)
        charged = charged + self.mean_weight * np.maximum(0.0, mean)
        charges = iter(charged.tolist())
        return [next(charges) if text else 0.0 for text in texts]

    def _of_bank(self) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
        """The mean vector of the first iteration, and all remembered vectors about it; None before it is over."""
        past = past_questions(self.bank)
        if not past:
            return None
        centre = self.embedder.embed(past[0]).mean(axis=0)
        everything = list(dict.fromkeys(text for texts in past for text in texts))
        return centre, centred(self.embedder.embed(everything), centre)


def centred(vectors: NDArray[np.float32], centre: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns the vectors (N, E) about another origin, of length 1; one that lies on it stays 0."""
    moved = vectors - centre
    lengths = np.linalg.norm(moved, axis=1, keepdims=True)
    unit: NDArray[np.float32] = np.divide(moved, lengths, out=moved, where=lengths > 0)
    return unit
