"""The authors' grader for the preset `official`."""

from __future__ import annotations

from collections.abc import Sequence

from rzero.grading.acceptance import Claim
from rzero.grading.budgeted import Budgeted
from rzero.grading.extraction import last_boxed_official
from rzero.grading.official_equality import official_claim

Pair = tuple[str, str]


class OfficialGrader(Budgeted):
    """The authors' grader (`mathruler` 0.1.0): same equality, same extraction, made safe.

    `accepts(prediction, reference)` is not symmetric, and no relation at all in places (R10 and R15 in
    docs/authors_code.md).
    `same` takes it in either direction, which is no equivalence; `classes` are what such pairs connect. The preset's
    own votes (`rzero.voting.OfficialVote`) ask `accepts` only. `extract` gives "" for an empty box and None where the
    authors write the literal "None".
    """

    def extract(self, response: str) -> str | None:
        return last_boxed_official(response)

    def accepts(self, prediction: str, reference: str) -> bool:
        return self.accepts_many([(prediction, reference)])[0]

    def accepts_many(self, pairs: Sequence[Pair]) -> list[bool]:
        """`accepts` for each pair of prediction and reference, their algebra spread over the workers."""
        return self.settled([self._claim(*pair) for pair in pairs], rule="official")

    def _claim(self, given: str, truth: str) -> Claim:
        if max(len(given), len(truth)) > self.max_chars:
            return given == truth
        return official_claim(given, truth)

    def same(self, left: str, right: str) -> bool:
        return self.same_many([(left, right)])[0]

    def same_many(self, pairs: Sequence[Pair]) -> list[bool]:
        verdicts = self.accepts_many([pair for left, right in pairs for pair in ((left, right), (right, left))])
        return [any(both) for both in zip(verdicts[::2], verdicts[1::2], strict=True)]

    def classes(self, batch: Sequence[Sequence[str]]) -> list[list[int]]:
        """For each list of answers: the index of the first answer that each is connected to by equal pairs."""
        pairs = [(a, b) for answers in batch for a in set(answers) for b in set(answers) if a < b]
        equal = {pair for pair, verdict in zip(pairs, self.same_many(pairs), strict=True) if verdict}
        return [_connected(answers, equal) for answers in batch]


def _connected(answers: Sequence[str], equal: set[Pair]) -> list[int]:
    places = {answer: place for place, answer in reversed(list(enumerate(answers)))}
    for a in places:
        for b in places:
            if (min(a, b), max(a, b)) in equal and places[a] != places[b]:
                low, high = sorted((places[a], places[b]))
                places = {answer: low if place == high else place for answer, place in places.items()}
    return [places[answer] for answer in answers]
