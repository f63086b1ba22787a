"""What a user without an oracle can see of an iteration's questions and labels (docs/metrics.md#signals).

Agreement, kept share and lexical distinctness look well all through a collapse. These look at kinds of questions, at
what earlier Solvers say to the same questions, and at the Challenger's own answers.

Shapes: N questions, E width of their vectors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from rzero.cells import cells_of_first
from rzero.interfaces import Embedder, Grader, QuestionBank
from rzero.opinions import own_answer_agrees
from rzero.rewards.parts import past_questions
from rzero.rewards.semantic_memory import centred
from rzero.types import LabelledQuestion, Vote

Earlier = Mapping[str, Sequence[Vote | None]]
"""Votes of earlier Solvers on the same questions: `previous`, one iteration older than the voter, and `first`."""


class Signals:
    """Metrics of the kept questions of an iteration, all but lengths in [0, 1] or numbers of kinds from 1 up.

    asked: how many of them `previous` and `first` Solver are asked again, with `votes` answers each. cells: see
    `rzero.cells`. similar_above: cosine about the first iteration's mean from which a question counts as posed before.
    """

    def __init__(
        self,
        grader: Grader,
        bank: QuestionBank,
        embedder: Embedder,
        *,
        asked: int,
        votes: int,
        cells: int,
        seed_of_cells: int,
        similar_above: float,
    ) -> None:
        if asked < 1 or votes < 1 or cells < 2:
            raise ValueError(f"signals need asked >= 1, votes >= 1 and cells >= 2, got {asked}, {votes} and {cells}")
        self.grader, self.bank, self.embedder = grader, bank, embedder
        self.asked, self.votes, self.cells, self.seed_of_cells = asked, votes, cells, seed_of_cells
        self.similar_above = similar_above

    def voters(self, iteration: int) -> dict[str, int]:
        """Returns the iterations of the earlier Solvers to ask; the voter itself is that of `iteration` - 1."""
        voter = iteration - 1
        named = {"previous": voter - 1, "first": 1}
        return {name: number for name, number in named.items() if 0 <= number < voter}

    def sample(self, labelled: Sequence[LabelledQuestion], *, iteration: int) -> list[LabelledQuestion]:
        """Returns the questions that earlier Solvers are asked again: the first new ones that were kept."""
        return self._new(labelled, iteration)[: self.asked]

    def __call__(self, labelled: Sequence[LabelledQuestion], earlier: Earlier, *, iteration: int) -> dict[str, float]:
        """Returns the metrics. earlier: votes on the questions of `sample`, by the names of `voters`."""
        new = self._new(labelled, iteration)
        if not new:
            return {}
        asked = self.sample(labelled, iteration=iteration)
        return {
            "signals/agreement": fmean(item.vote.agreement for item in new if item.vote),
            "signals/own_answer": fmean(own_answer_agrees(new, self.grader)),
            "signals/question_length": fmean(len(item.question) for item in new),
            **self._kinds(new, labelled, iteration=iteration),
            **{
                f"signals/{name}_{measure}": value
                for name, votes in earlier.items()
                for measure, value in self._compared(asked, votes).items()
            },
        }

    def _new(self, labelled: Sequence[LabelledQuestion], iteration: int) -> list[LabelledQuestion]:
        return [item for item in labelled if item.kept and item.iteration == iteration]

    def _compared(self, asked: Sequence[LabelledQuestion], votes: Sequence[Vote | None]) -> dict[str, float]:
        """How far other voters come to the labels.

        same: the share of labels that are theirs too. answers: the share of all their answers that are the label.
        agreement: theirs among themselves.
        """
        ballots = [
            [(item.vote.label if item.vote else None) or "", (vote.label or "") if vote else "", *_answers(vote)]
            for item, vote in zip(asked, votes, strict=True)
        ]
        classes = self.grader.classes(ballots)
        same = [bool(b[1]) and c[1] == c[0] for b, c in zip(ballots, classes, strict=True)]
        shares = [
            sum(bool(answer) and number == c[0] for answer, number in zip(b[2:], c[2:], strict=True)) / len(b[2:])
            for b, c in zip(ballots, classes, strict=True)
            if len(b) > 2
        ]
        return {
            "same": fmean(same),
            "answers": fmean(shares) if shares else 0.0,
            "agreement": fmean(vote.agreement if vote else 0.0 for vote in votes),
        }

    def _kinds(
        self, new: Sequence[LabelledQuestion], labelled: Sequence[LabelledQuestion], *, iteration: int
    ) -> dict[str, float]:
        past = past_questions(self.bank)[: iteration - 1]
        first = past[0] if past else [item.question for item in labelled if item.question]
        vectors = self.embedder.embed([item.question for item in new])
        cells = cells_of_first(first, embedder=self.embedder, cells=self.cells, seed=self.seed_of_cells)
        found = {"signals/cells": effective_number(cells.shares(vectors)), "signals/vendi": vendi_score(vectors)}
        if past:
            earlier = list(dict.fromkeys(text for texts in past for text in texts))
            centre = self.embedder.embed(first).mean(axis=0)
            nearest = (centred(vectors, centre) @ centred(self.embedder.embed(earlier), centre).T).max(axis=1)
            found["signals/overlap"] = float((nearest > self.similar_above).mean())
        return found


def _answers(vote: Vote | None) -> list[str]:
    return [answer or "" for answer in vote.answers] if vote else []


def effective_number(shares: NDArray[np.float64]) -> float:
    """Returns exp(entropy) of shares that sum to 1: n for n equal ones, 1 for a single one, 0 where all are 0."""
    filled = shares[shares > 0]
    if not len(filled):
        return 0.0
    return float(np.exp(-(filled * np.log(filled)).sum()))


def vendi_score(vectors: NDArray[np.float32]) -> float:
    """Returns the effective number of different vectors (N, E) of length 1: exp of the entropy of the eigenvalues.

    Of their kernel of cosines over N, that is (Friedman and Dieng 2022, arXiv 2210.02410); vectors at right angles
    count one each, equal ones together.
    """
    values = np.linalg.svd(vectors.astype(np.float64), compute_uv=False) ** 2 / len(vectors)
    return effective_number(values / values.sum())
