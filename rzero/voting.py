"""The vote: which answer most of the Solver's responses to a question give (paper section 3.3; docs/method.md#vote).

What is one answer is the grader's business; a whole batch of questions is put to it at once. Count and agreement of the
paper's vote are the same for every order of the responses; a tie goes to the answer seen first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import permutations
from typing import Protocol

from rzero.interfaces import Grader
from rzero.types import Vote

Pair = tuple[str, str]
Verdict = bool | Exception


class GradingError(Exception):
    """A grader gave no verdict on a pair. Ours always give one; the authors' could raise, and their rules react."""


class PaperVote:
    """The paper's vote: a response without a boxed answer is no vote, and the divisor is the number m of responses.

    vote = PaperVote(grader)(["... \\\\boxed{4}", "... \\\\boxed{4.0}", "no idea"])   # label "4", count 2, divisor 3

    Answers join by `Grader.classes`. A class is named by its most frequent spelling (then the shortest, then by the
    alphabet), so that the label does not depend on the order of the responses either, but for a tie of two classes.
    """

    def __init__(self, grader: Grader) -> None:
        self.grader = grader

    def __call__(self, responses: Sequence[str]) -> Vote:
        return self.vote_many([responses])[0]

    def vote_many(self, batch: Sequence[Sequence[str]]) -> list[Vote]:
        """One vote per question; `batch[i]` holds the responses to question i."""
        answers = [tuple(self.grader.extract(response) or None for response in responses) for responses in batch]
        ballots = [[answer for answer in row if answer is not None] for row in answers]
        return [
            _vote(ballot, _named(ballot, classes), divisor=len(row), answers=row)
            for row, ballot, classes in zip(answers, ballots, self.grader.classes(ballots), strict=True)
        ]


def _named(ballot: Sequence[str], classes: Sequence[int]) -> dict[str, str]:
    """The name of the class of each answer."""
    spellings: dict[int, Counter[str]] = {}
    for answer, number in zip(ballot, classes, strict=True):
        spellings.setdefault(number, Counter())[answer] += 1
    names = {
        number: min(counts, key=lambda answer: (-counts[answer], len(answer), answer))
        for number, counts in spellings.items()
    }
    return {answer: names[number] for answer, number in zip(ballot, classes, strict=True)}


class OfficialLikeGrader(Protocol):
    """A grader that may return TimeoutError or GradingError in place of a verdict, as the authors' could raise them."""

    def extract(self, response: str) -> str | None: ...

    def accepts_many(self, pairs: Sequence[Pair]) -> Sequence[Verdict]: ...


class OfficialVote:
    """The authors' votes, which differ between their files (C; docs/authors_code.md, R8 to R11). `rule` names the file.

    reward          start_vllm_server.py: a response without a box votes for the literal "None", an empty box is no
                    vote; answers that both contain "no " are equal; a comparison that times out is tried the other way
                    round, one that fails is skipped; the divisor is the number of responses.
    label           evaluate.py: as above, but a timeout skips the pair, a failure loses the whole question (label
                    None), and the divisor is the number of non-empty answers.
    reward_2025_08  the reward file before 26 August 2025: as `reward`, and an empty box votes for the empty string.

    Answers join the first cluster whose first member they equal, so that the vote depends on the order of the responses
    (docs/authors_code.md, R10). Meant for a grader that behaves like the authors' (`rzero.grading.OfficialGrader`),
    asked in both directions.
    """

    RULES = ("reward", "label", "reward_2025_08")

    def __init__(self, grader: OfficialLikeGrader, *, rule: str) -> None:
        if rule not in self.RULES:
            raise ValueError(f"vote.rule must be one of {', '.join(self.RULES)}; got {rule!r}")
        self.grader = grader
        self.rule = rule

    def __call__(self, responses: Sequence[str]) -> Vote:
        return self.vote_many([responses])[0]

    def vote_many(self, batch: Sequence[Sequence[str]]) -> list[Vote]:
        """One vote per question; `batch[i]` holds the responses to question i."""
        answers = [tuple(self._extract(response) for response in responses) for responses in batch]
        ballots = [[answer for answer in row if answer or self.rule == "reward_2025_08"] for row in answers]
        pairs = dict.fromkeys(pair for ballot in ballots for pair in permutations(dict.fromkeys(ballot), 2))
        verdicts = dict(zip(pairs, self.grader.accepts_many(list(pairs)), strict=True))
        same = _same_label if self.rule == "label" else _same_reward
        return [
            _vote(
                ballot,
                _clusters(ballot, lambda answer, first: same(answer, first, verdicts)),
                divisor=len(ballot) if self.rule == "label" else len(row),
                answers=row,
            )
            for row, ballot in zip(answers, ballots, strict=True)
        ]

    def _extract(self, response: str) -> str:
        answer = self.grader.extract(response)
        return "None" if answer is None else answer


def _vote(ballot: Sequence[str], joined: Mapping[str, str], *, divisor: int, answers: tuple[str | None, ...]) -> Vote:
    counts = Counter(joined[answer] for answer in ballot) if joined else Counter[str]()
    label = max(counts, key=counts.__getitem__, default=None)  # max returns the first of several maxima
    return Vote(
        label=label,
        count=0 if label is None else counts[label],
        divisor=divisor,
        counts=tuple(counts.items()),
        answers=answers,
    )


def _clusters(ballot: Sequence[str], same: Callable[[str, str], bool]) -> dict[str, str]:
    """The first member of the cluster that each distinct answer joins; none at all where a comparison failed.

    A string is looked at once: clusters only ever come after the ones seen, so it would join the same one again.
    """
    joined: dict[str, str] = {}
    for answer in dict.fromkeys(ballot):
        firsts = [member for member, first in joined.items() if member == first]
        try:
            joined[answer] = next((first for first in firsts if same(answer, first)), answer)
        except GradingError:
            return {}
    return joined


def _same_reward(answer: str, first: str, verdicts: Mapping[Pair, Verdict]) -> bool:
    """A timeout is tried the other way round, a failure counts as unequal."""
    if _share_no(answer, first):
        return True
    for pair in ((answer, first), (first, answer)):
        verdict = verdicts[pair]
        if isinstance(verdict, GradingError):
            return False
        if verdict is True:
            return True
    return False


def _same_label(answer: str, first: str, verdicts: Mapping[Pair, Verdict]) -> bool:
    """A timeout counts as unequal, a failure loses the question."""
    if _share_no(answer, first):
        return True
    for pair in ((answer, first), (first, answer)):
        verdict = verdicts[pair]
        if isinstance(verdict, GradingError):
            raise verdict
        if isinstance(verdict, Exception) or verdict:
            return verdict is True
    return False


def _share_no(left: str, right: str) -> bool:
    # meant for "no solution" and friends; it also equates "piano 5" and "casino odds" (docs/authors_code.md, R9)
    return "no " in left.lower() and "no " in right.lower()
