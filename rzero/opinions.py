"""Second opinions on a label: it is kept where an independent road leads to the same answer.

A Solver that learns from its own votes comes to agree with itself about wrong answers, and agreement says no longer
what it used to say. Solvers of earlier iterations do not share the newer errors, their average only in part, and the
Challenger answered its question before any Solver saw it (a strict gate on the data is what stability needs: arXiv
2605.22217).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from rzero.curriculum import dropped
from rzero.interfaces import Curriculum, Grader
from rzero.types import LabelledQuestion, Question, Vote

Mixture: TypeAlias = Mapping[int, float]
"""A voter as a mean of Solvers' weights: the share of each iteration's Solver in it, together 1."""


class Voters(Protocol):
    """Other voters on every candidate, `votes` answers each."""

    @property
    def votes(self) -> int: ...

    def of(self, voter: int) -> Sequence[Mixture]:
        """Returns those that vote along with the Solver of iteration `voter`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchors:
    """Earlier Solvers that vote along on every candidate, `votes` answers each.

    behind: by how many iterations each of them is older than the voter. earliest: the first iteration whose Solver is
    asked (0: the base model, 1: the first that was trained); one that would be older is left out.
    """

    behind: tuple[int, ...]
    earliest: int
    votes: int

    def __post_init__(self) -> None:
        if not self.behind or min(self.behind) < 1 or self.earliest < 0 or self.votes < 1:
            raise ValueError(
                f"curriculum.anchors needs behind >= 1, earliest >= 0 and votes >= 1, got {list(self.behind)}, "
                f"{self.earliest} and {self.votes}"
            )

    def of(self, voter: int) -> list[Mixture]:
        """Returns the Solvers that vote along with the one of iteration `voter`, each whole."""
        return [{voter - back: 1.0} for back in self.behind if voter - back >= self.earliest]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ema:
    """An exponential moving average of the Solvers' weights that votes along (the idea of M-GRPO, arXiv 2512.13070).

    E_0 = S_0 and E_i = decay E_{i-1} + (1 - decay) S_i, the voter being S_i. There the average moves with every step;
    here labels are given once an iteration, and so often it moves. It depends on nothing but the Solvers on disk.
    """

    decay: float
    votes: int

    def __post_init__(self) -> None:
        if not 0 < self.decay < 1 or self.votes < 1:
            raise ValueError(
                f"curriculum.anchors needs decay in (0, 1) and votes >= 1, got {self.decay} and {self.votes}"
            )

    def of(self, voter: int) -> list[Mixture]:
        """Returns the average up to iteration `voter`; nobody where that is the voter itself."""
        shares = {i: self.decay ** (voter - i) * (1 - self.decay if i else 1) for i in range(voter + 1)}
        return [shares] if voter else []


class Anchored:
    """Drops what `rule` keeps where too few of the other voters (`Vote.others`) came to the same label.

    least: the share of them in [0, 1] that has to; 1 means all. A voter without an answer does not agree. Where nobody
    else was asked, as in the first iteration, nothing is dropped.
    """

    def __init__(self, grader: Grader, *, rule: Curriculum, least: float) -> None:
        if not 0 <= least <= 1:
            raise ValueError(f"curriculum.rule.least must lie in [0, 1], got {least}; 1 asks all of them to agree")
        self.grader, self.rule, self.least = grader, rule, least

    def select(
        self, questions: Sequence[Question | None], votes: Sequence[Vote | None], *, iteration: int
    ) -> list[LabelledQuestion]:
        labelled = self.rule.select(questions, votes, iteration=iteration)
        own = [position for position, item in enumerate(labelled) if item.kept and item.iteration == iteration]
        drops = {
            position: "earlier_disagree"
            for position, share in zip(own, support([labelled[p].vote for p in own], self.grader), strict=True)
            if share is not None and share < self.least
        }
        return dropped(labelled, drops)


class OwnAnswer:
    """Drops what `rule` keeps where the Challenger's own answer is not the label."""

    def __init__(self, grader: Grader, *, rule: Curriculum) -> None:
        self.grader, self.rule = grader, rule

    def select(
        self, questions: Sequence[Question | None], votes: Sequence[Vote | None], *, iteration: int
    ) -> list[LabelledQuestion]:
        labelled = self.rule.select(questions, votes, iteration=iteration)
        own = [position for position, item in enumerate(labelled) if item.kept and item.iteration == iteration]
        agrees = own_answer_agrees([labelled[position] for position in own], self.grader)
        return dropped(labelled, {p: "own_answer_differs" for p, same in zip(own, agrees, strict=True) if not same})


def support(votes: Sequence[Vote | None], grader: Grader) -> list[float | None]:
    """Returns which share of each vote's other voters came to its label; None where nobody else was asked."""
    ballots = [
        [vote.label, *(other.label or "" for other in vote.others)] if vote is not None and vote.label else []
        for vote in votes
    ]
    return [
        sum(bool(answer) and number == classes[0] for answer, number in zip(ballot[1:], classes[1:], strict=True))
        / (len(ballot) - 1)
        if len(ballot) > 1
        else None
        for ballot, classes in zip(ballots, grader.classes(ballots), strict=True)
    ]


def own_answer_agrees(labelled: Sequence[LabelledQuestion], grader: Grader) -> list[bool]:
    """Returns for each question whether the Challenger's own answer is its label; False where one of them lacks."""
    pairs = [((item.vote.label if item.vote else None) or "", item.challenger_answer or "") for item in labelled]
    return [all(pair) and same for pair, same in zip(pairs, grader.same_many(pairs), strict=True)]
