"""A repetition penalty that remembers earlier iterations (the idea of R-Diverse's MAP, arXiv 2602.13103).

Within a batch the Challenger cannot repeat itself for free, but over iterations it can cycle through the same modes.
R-Diverse measures similarity by the skills a question exercises, which takes another model; this one uses BLEU.
"""

from __future__ import annotations

import itertools

from rzero.interfaces import ChallengerReward, QuestionBank
from rzero.repetition import nearest_similarity
from rzero.rewards.parts import Questions, Votes, past_questions, require_range, unless_negative
from rzero.types import RewardBreakdown


class MemoryPenalty:
    """`reward` minus weight * BLEU to the nearest question of the bank, where that is above `similar_above`.

    A question of the bank itself counts as 1, also where it is too short for BLEU or written without blanks.

    The memory is what the bank holds, dropped questions included, for the iterations 1, 2, ... up to the first it knows
    nothing about (empty, LookupError or FileNotFoundError). No positive reward is pushed below 0. `parts` gains
    `memory`, the charge.
    """

    def __init__(
        self, bank: QuestionBank, *, reward: ChallengerReward, memory_weight: float, similar_above: float
    ) -> None:
        self.bank = bank
        self.reward = reward
        self.memory_weight = memory_weight
        self.similar_above = require_range("challenger_reward.similar_above", similar_above, low=0, high=1)

    def __call__(self, questions: Questions, votes: Votes) -> list[RewardBreakdown]:
        texts = ["" if question is None else question.text for question in questions]
        past = list(dict.fromkeys(itertools.chain.from_iterable(past_questions(self.bank))))
        known = set(past)
        nearest = [
            1.0 if text in known else bleu
            for text, bleu in zip(texts, nearest_similarity(texts, past=past), strict=True)
        ]
        charges = [self.memory_weight * bleu if bleu > self.similar_above else 0.0 for bleu in nearest]
        paid = self.reward(questions, votes)
        return [unless_negative(item, charge=charge, part="memory") for item, charge in zip(paid, charges, strict=True)]
