"""An acceptance test: a new Solver goes on unless the evidence of one round says that it is worse than the old one.

Keeping an update whenever a score rose is a test repeated until it passes (PACE, arXiv 2606.08106). Here questions of
the round that were not trained on are asked the other way round: a bet against "the new Solver is at least as good"
grows only where it is not, and however often one looks, a Solver that is as good as the old one is given up with a
chance of at most `alpha` (Ville's inequality; betting: Waudby-Smith and Ramdas, arXiv 2010.09686).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

from rzero.interfaces import Grader, Responses
from rzero.rewards import PaperSolverReward
from rzero.types import LabelledQuestion


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A test's outcome. new, old: share of right answers in [0, 1]. evidence: the largest wealth of the bet, from 1 up.

    Right is what agrees with the label.
    """

    questions: int
    new: float
    old: float
    evidence: float
    accepted: bool

    def metrics(self) -> dict[str, float]:
        return {
            "acceptance/questions": float(self.questions),
            "acceptance/new": self.new,
            "acceptance/old": self.old,
            "acceptance/evidence": self.evidence,
            "acceptance/accepted": float(self.accepted),
        }


class Acceptance:
    """The test of a new Solver against the weights that its phase started from, on labels that it was not trained on.

    share: of the questions that were kept in the round, how many are held out, at most `most`. answers: to each of them
    from either Solver. alpha: the chance, at most, that a Solver as good as the old one is given up in a round.
    largest_bet: the most that is staked on one question, as a share of the wealth, in (0, 1).
    """

    def __init__(
        self, grader: Grader, *, share: float, most: int, answers: int, alpha: float, largest_bet: float
    ) -> None:
        if not (0 < share < 1 and 0 < alpha < 1 and 0 < largest_bet < 1) or most < 1 or answers < 1:
            raise ValueError(
                "solver.acceptance needs share, alpha and largest_bet in (0, 1), most >= 1 and answers >= 1, got "
                f"{share}, {alpha}, {largest_bet}, {most} and {answers}"
            )
        self._right = PaperSolverReward(grader)
        self.share, self.most, self.answers = share, most, answers
        self.alpha, self.largest_bet = alpha, largest_bet

    def split(
        self, kept: Sequence[LabelledQuestion], *, iteration: int
    ) -> tuple[list[LabelledQuestion], list[LabelledQuestion]]:
        """Returns the questions to train on and those held out: different new texts, drawn by lot, copies with them."""
        new = {item.question: item for item in reversed(kept) if item.iteration == iteration}
        drawn = sorted(new, key=_lot)[: min(self.most, int(self.share * len(new)))]
        held_out = set(drawn)
        return [item for item in kept if item.question not in held_out], [new[text] for text in drawn]

    def judge(self, labels: Sequence[str], *, new: Responses, old: Responses) -> Verdict:
        """Returns the verdict on the answers of the new and of the old Solver to each question, in the given order."""
        shares = [[fmean(paid.total for paid in group) for group in self._right(texts, labels)] for texts in (new, old)]
        differences = [after - before for after, before in zip(*shares, strict=True)]
        evidence = max([1.0, *wealth(differences, largest_bet=self.largest_bet)])
        return Verdict(
            questions=len(labels),
            new=fmean(shares[0]) if labels else 0.0,
            old=fmean(shares[1]) if labels else 0.0,
            evidence=evidence,
            accepted=evidence < 1 / self.alpha,
        )


def wealth(differences: Sequence[float], *, largest_bet: float) -> Iterator[float]:
    """Yields, after each difference in [-1, 1], the wealth of who bets that their mean is below 0, from 1 unit.

    W_t = W_{t-1} (1 - bet_t x_t), which in the mean grows only where the mean of x is negative. The bet is fixed before
    x_t is seen: -m / (v + m^2) in [0, largest_bet], from the mean m and variance v of what came before, as if there had
    been a difference of 0 and a squared deviation of 1 first (their "approximate GRAPA").
    """
    now, total, squares = 1.0, 0.0, 1.0
    for number, x in enumerate(differences, start=1):
        mean, variance = total / number, squares / number
        now *= 1 - min(largest_bet, max(0.0, -mean / (variance + mean**2))) * x
        yield now
        total += x
        squares += (x - total / (number + 1)) ** 2


def _lot(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
