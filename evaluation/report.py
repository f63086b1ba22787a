"""The result of an evaluation: scores, and beside them what a reader of the scores has to know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evaluation.metrics import Scores
from evaluation.protocol import Decoding
from evaluation.remote_judge import Review
from rzero.types import Json


@dataclass(frozen=True, slots=True, kw_only=True)
class Notes:
    """Facts about one benchmark that are no part of its score.

    too_long: questions over the model's context, counted as wrong. truncated: share in [0, 1] of the responses of each
    decoding that ran into the token limit. review: what a remote judge would have upgraded (None: it was not asked).
    """

    too_long: int
    truncated: Mapping[Decoding, float]
    review: Review | None

    @classmethod
    def from_json(cls, data: Json) -> Notes:
        """The notes whose `dataclasses.asdict` is `data`."""
        review = data["review"]
        return cls(**{**data, "review": review and Review(**{**review, "ids": tuple(review["ids"])})})


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Scores of one set of weights with `notes` by benchmark and lm-eval's own results by decoding, task by task.

    weights: their hash; key: that of everything else about who was asked how. Both are empty for an unknown policy.
    """

    weights: str
    key: str
    scores: Scores
    notes: Mapping[str, Notes]
    lm_results: Mapping[Decoding, Sequence[Json]]

    @property
    def overall(self) -> float:
        """The score in percent that counts (`evaluation.metrics.Scores.overall`)."""
        return self.scores.overall

    def metrics(self) -> dict[str, float]:
        """Flat metrics `evaluation/...` for a tracker."""
        return self.scores.metrics()

    def to_json(self) -> Json:
        """The scores as plain data, which `Scores.from_json` reads, and the truncated share of each decoding."""
        truncated = {name: dict(notes.truncated) for name, notes in self.notes.items()}
        return {**self.scores.to_json(), "truncated": truncated}
