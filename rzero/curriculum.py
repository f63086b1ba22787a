"""Choosing the labelled candidates that the Solver trains on (paper section 3.3; docs/method.md#curriculum).

A rule is any object with the `select` of `rzero.interfaces.Curriculum`. `BandCurriculum` is the method: a question is
kept when the Solver's agreement on it lies inside the band. The other rules wrap one and thin out or extend what it
kept, so they can be stacked in any order. Every candidate comes back, in order, kept or with one of DROP_REASONS.
"""

from __future__ import annotations

import hashlib
import math
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from rzero.cells import CellCount, cells_of_first, fewest
from rzero.interfaces import Curriculum, Embedder, QuestionBank
from rzero.repetition import cluster_labels
from rzero.types import LabelledQuestion, Question, Vote

DROP_REASONS: Mapping[str, str] = {
    "no_question": "the response holds no usable question block",
    "no_answer": "the Challenger gave no boxed answer of its own",
    "no_vote": "the question was not put to the Solver",
    "no_majority": "no response of the Solver holds an answer",
    "asks_for_proof": "the question asks for a proof (in Chinese)",
    "contains_box": 'the question contains "box"',
    "label_contains_text": 'the majority answer contains "text"',
    "label_is_none": 'the majority answer is the literal "None"',
    "below_band": "the agreement is under the band: too hard, or no right answer exists",
    "above_band": "the agreement is over the band: too easy",
    "below_quantile": "among the hardest of this iteration",
    "above_quantile": "among the easiest of this iteration",
    "stratum_full": "enough questions of this agreement were kept already",
    "duplicate": "an earlier candidate says the same",
    "earlier_disagree": "Solvers of earlier iterations came to another answer",
    "own_answer_differs": "the Challenger's own answer is not the majority's",
    "rewording_differs": "in other words it does not lead to the same answer",
    "answer_does_not_fit": "the Solver, asked whether the majority's answer fits, says no",
    "cell_full": "enough questions of this kind were kept already",
}


class Band(Protocol):
    """Says why an agreement in [0, 1] is outside ("below_band", "above_band"), or None when it is inside."""

    def __call__(self, agreement: float) -> str | None: ...


class Screen(Protocol):
    """Says why a question with its vote is unfit whatever its agreement (a key of DROP_REASONS), or None."""

    def __call__(self, question: Question, vote: Vote) -> str | None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class CentredBand:
    """abs(p - centre) <= half_width (P: 1/2 and 0.25)."""

    centre: float
    half_width: float

    def __post_init__(self) -> None:
        if not 0 <= self.centre <= 1:
            raise ValueError(f"curriculum.rule.band.centre must lie in [0, 1], got {self.centre}; the paper uses 0.5")
        if not 0 <= self.half_width <= 1:
            raise ValueError(
                f"curriculum.rule.band.half_width must lie in [0, 1], got {self.half_width}; the paper uses 0.25"
            )

    def __call__(self, agreement: float) -> str | None:
        if abs(agreement - self.centre) <= self.half_width:
            return None
        return "below_band" if agreement < self.centre else "above_band"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosedBand:
    """low <= p <= high (C: 0.3 and 0.8; 0 and 1 keep every agreement)."""

    low: float
    high: float

    def __post_init__(self) -> None:
        for key, value in (("low", self.low), ("high", self.high)):
            if not 0 <= value <= 1:
                raise ValueError(
                    f"curriculum.rule.band.{key} must lie in [0, 1], got {value}; set a share of the votes"
                )
        if self.low > self.high:
            raise ValueError(
                f"curriculum.rule.band is upside down: low {self.low} is above high {self.high}; swap the two"
            )

    def __call__(self, agreement: float) -> str | None:
        if agreement < self.low:
            return "below_band"
        return "above_band" if agreement > self.high else None


class OfficialScreen:
    """The text rules of the authors' evaluate.py and upload.py. They also hit innocents (docs/authors_code.md, R14)."""

    def __call__(self, question: Question, vote: Vote) -> str | None:
        label = vote.label or ""
        if "证明" in question.text:
            return "asks_for_proof"
        if "box" in question.text.lower():
            return "contains_box"
        if "text" in label.lower():
            return "label_contains_text"
        return "label_is_none" if label == "None" else None


class BandCurriculum:
    """Keep a question whose format is whole, that somebody answered, that passes the screens and lies in the band."""

    def __init__(self, *, band: Band, screens: Sequence[Screen] = ()) -> None:
        self.band = band
        self.screens = tuple(screens)

    def select(
        self, questions: Sequence[Question | None], votes: Sequence[Vote | None], *, iteration: int
    ) -> list[LabelledQuestion]:
        return [
            LabelledQuestion(
                iteration=iteration,
                index=index,
                question="" if question is None else question.text,
                challenger_answer=None if question is None else question.answer,
                vote=vote,
                drop_reason=self._drop_reason(question, vote),
            )
            for index, (question, vote) in enumerate(zip(questions, votes, strict=True))
        ]

    def _drop_reason(self, question: Question | None, vote: Vote | None) -> str | None:
        if question is None or not question.text:
            return "no_question"
        if not question.answer:
            return "no_answer"
        if vote is None:
            return "no_vote"
        if not vote.label:
            return "no_majority"
        reasons = (screen(question, vote) for screen in self.screens)
        return next((reason for reason in reasons if reason is not None), None) or self.band(vote.agreement)


class Quantile:
    """Thins what `rule` keeps out to a range of quantiles of difficulty (after R-Few, arXiv 2512.02472).

    Ranked by agreement, equal ones in their order, the ranks from floor(low * n) up to, not including, ceil(high * n)
    stay. Hence the share kept does not depend on how good the Solver has become, as it does with a fixed band.
    """

    def __init__(self, *, rule: Curriculum, low: float, high: float) -> None:
        if not 0 <= low < high <= 1:
            raise ValueError(f"curriculum.rule needs 0 <= low < high <= 1, got low {low} and high {high}; fix the two")
        self.rule = rule
        self.low = low
        self.high = high

    def select(
        self, questions: Sequence[Question | None], votes: Sequence[Vote | None], *, iteration: int
    ) -> list[LabelledQuestion]:
        labelled = self.rule.select(questions, votes, iteration=iteration)
        ranked = sorted(_kept(labelled), key=lambda position: _agreement(labelled[position]))
        first, end = math.floor(self.low * len(ranked)), math.ceil(self.high * len(ranked))
        drops = dict.fromkeys(ranked[:first], "below_quantile") | dict.fromkeys(ranked[end:], "above_quantile")
        return dropped(labelled, drops)


class Stratified:
    """Thins what `rule` keeps out to at most `ratio` times as many questions of any agreement as of the rarest one.

    The first ones stay. Agreements are cut into `strata` equal intervals of [0, 1]; `ratio` 1 makes the filled ones
    equally large.
    """

    def __init__(self, *, rule: Curriculum, strata: int, ratio: float) -> None:
        if strata < 1:
            raise ValueError(f"curriculum.rule.strata must be at least 1, got {strata}; the number of votes is natural")
        if ratio < 1:
            raise ValueError(f"curriculum.rule.ratio must be at least 1, got {ratio}; 1 makes the strata equal")
        self.rule = rule
        self.strata = strata
        self.ratio = ratio

    def select(
        self, questions: Sequence[Question | None], votes: Sequence[Vote | None], *, iteration: int
    ) -> list[LabelledQuestion]:
        labelled = self.rule.select(questions, votes, iteration=iteration)
        strata = {
            position: min(self.strata - 1, int(_agreement(labelled[position]) * self.strata))
            for position in _kept(labelled)
        }
        quota = math.floor(self.ratio * min(Counter(strata.values()).values(), default=0))
        taken: Counter[int] = Counter()
        drops = {}
        for position, stratum in strata.items():
            taken[stratum] += 1
            if taken[stratum] > quota:
                drops[position] = "stratum_full"
        return dropped(labelled, drops)


class Deduplicated:
    """Thins what `rule` keeps out to the first of each cluster of equal or similar questions.

    The authors keep all copies (docs/authors_code.md, D12). Equal means: the same visible characters after Unicode
    normalisation, whatever the case and the spaces. Similar means: the same BLEU cluster as in the repetition penalty,
    under `threshold`. Twenty words that differ in one number are similar at 0.5; a threshold near 0 keeps both.
    """

    def __init__(self, *, rule: Curriculum, threshold: float) -> None:
        if not 0 < threshold <= 1:
            raise ValueError(f"curriculum.rule.threshold must lie in (0, 1], got {threshold}; the penalty uses 0.5")
        self.rule = rule
        self.threshold = threshold

    def select(
        self, questions: Sequence[Question | None], votes: Sequence[Vote | None], *, iteration: int
    ) -> list[LabelledQuestion]:
        labelled = self.rule.select(questions, votes, iteration=iteration)
        first: dict[str, int] = {}
        for position in _kept(labelled):
            first.setdefault(normalised(labelled[position].question), position)
        different = list(first.values())
        clusters = cluster_labels([labelled[position].question for position in different], threshold=self.threshold)
        stay = {different[int(cluster)] for cluster in clusters}
        return dropped(labelled, {position: "duplicate" for position in _kept(labelled) if position not in stay})


class Balanced:
    """Thins what `rule` keeps out to at most `ratio` times the fair share of any kind of question.

    Kinds are the cells of the first iteration's questions (`rzero.cells`); the fair share is what was kept over the
    number of cells that hold any of it. The first ones of a cell stay.
    """

    def __init__(
        self,
        bank: QuestionBank,
        embedder: Embedder,
        *,
        rule: Curriculum,
        cells: CellCount,
        ratio: float,
        seed_of_cells: int,
    ) -> None:
        if fewest(cells) < 2 or ratio < 1:
            raise ValueError(f"curriculum.rule needs cells >= 2 and ratio >= 1, got {cells} and {ratio}")
        self.bank, self.embedder, self.rule = bank, embedder, rule
        self.cells, self.ratio, self.seed_of_cells = cells, ratio, seed_of_cells

    def select(
        self, questions: Sequence[Question | None], votes: Sequence[Vote | None], *, iteration: int
    ) -> list[LabelledQuestion]:
        labelled = self.rule.select(questions, votes, iteration=iteration)
        kept = _kept(labelled)
        if not kept:
            return labelled
        first = labelled if iteration == 1 else self.bank.get(1)
        posed = [item.question for item in first if item.question and item.iteration == 1]
        cells = cells_of_first(posed, embedder=self.embedder, cells=self.cells, seed=self.seed_of_cells)
        cell_of = cells.of(self.embedder.embed([labelled[position].question for position in kept])).tolist()
        quota = math.ceil(self.ratio * len(kept) / len(set(cell_of)))
        taken: Counter[int] = Counter()
        drops = {}
        for position, cell in zip(kept, cell_of, strict=True):
            taken[cell] += 1
            if taken[cell] > quota:
                drops[position] = "cell_full"
        return dropped(labelled, drops)


class Replay:
    """Adds to what `rule` selects some questions kept in earlier iterations (docs/method.md#variants).

    `share` times as many as were newly kept are appended as they were, with their own iteration, index and label, by
    which they can be told from the new ones. The choice depends on the questions and `seed` only.
    """

    def __init__(self, *, rule: Curriculum, bank: QuestionBank, share: float, seed: int) -> None:
        if share < 0:
            raise ValueError(f"curriculum.rule.share must be 0 or positive, got {share}; 0.25 adds a quarter")
        self.rule = rule
        self.bank = bank
        self.share = share
        self.seed = seed

    def select(
        self, questions: Sequence[Question | None], votes: Sequence[Vote | None], *, iteration: int
    ) -> list[LabelledQuestion]:
        labelled = self.rule.select(questions, votes, iteration=iteration)
        earlier = [
            question
            for past in range(1, iteration)
            for question in self.bank.get(past)
            if question.kept and question.iteration == past
        ]
        wanted = round(self.share * len(_kept(labelled)))
        return labelled + sorted(earlier, key=self._lot)[:wanted]

    def _lot(self, question: LabelledQuestion) -> bytes:
        drawn = f"{self.seed} {question.iteration} {question.index} {question.question}"
        return hashlib.blake2b(drawn.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def normalised(text: str) -> str:
    """The visible characters of a text after NFKC and case folding; signs stay, for 1+1 is not 1-1."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(char for char in folded if char.isprintable() and not char.isspace())


def _kept(labelled: Sequence[LabelledQuestion]) -> list[int]:
    return [position for position, item in enumerate(labelled) if item.kept]


def _agreement(item: LabelledQuestion) -> float:
    return item.vote.agreement if item.vote is not None else 0.0


def dropped(labelled: Sequence[LabelledQuestion], reasons: Mapping[int, str]) -> list[LabelledQuestion]:
    """Returns the questions, those at the positions in `reasons` dropped for the reason there."""
    return [
        replace(item, drop_reason=reasons[position]) if position in reasons else item
        for position, item in enumerate(labelled)
    ]
