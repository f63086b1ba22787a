"""The vote: which answer most of the Solver's responses to a question give (paper section 3.3, SPEC section 4 "Vote").

Answers join the first cluster whose representative, its first member, they equal; ties go to the cluster seen first.
Equality is the grader's business, but equal strings never reach it, and a whole batch of questions is voted on in
rounds, so that a grader with worker processes gets all open comparisons of all questions at once.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from typing import Protocol, runtime_checkable

from rzero.interfaces import Grader
from rzero.types import Vote

Pair = tuple[str, str]
Verdict = bool | Exception
# asks for one comparison at a time, is sent the verdict, and returns {representative: votes} in order of appearance
Clustering = Generator[Pair, bool, dict[str, int]]


@runtime_checkable
class BatchGrader(Protocol):
    """A grader that compares many pairs at once: verdicts in the order of the pairs."""

    def equivalent_many(self, pairs: Sequence[Pair]) -> Sequence[bool]: ...


class GradingError(Exception):
    """A grader gave no verdict on a pair. Ours always give one; the authors' could raise, and their rules react."""


class PaperVote:
    """The paper's vote: a response without a boxed answer is no vote, and the divisor is the number m of responses.

    vote = PaperVote(grader)(["... \\\\boxed{4}", "... \\\\boxed{4.0}", "no idea"])   # label "4", count 2, divisor 3

    The grader's verdict is symmetric by contract, so each pair of distinct answers is compared once.
    """

    def __init__(self, grader: Grader) -> None:
        self.grader = grader

    def __call__(self, responses: Sequence[str]) -> Vote:
        return self.vote_many([responses])[0]

    def vote_many(self, batch: Sequence[Sequence[str]]) -> list[Vote]:
        """One vote per question; `batch[i]` holds the responses to question i."""
        answers = [tuple(self.grader.extract(response) or None for response in responses) for responses in batch]
        clusterings = [_first_equal([answer for answer in row if answer is not None]) for row in answers]
        return [
            _vote(counts, divisor=len(row), answers=row)
            for row, counts in zip(answers, _settle(clusterings, grader=self.grader), strict=True)
        ]


class OfficialVote:
    """The authors' votes, which differ between their files (C; OFFICIAL_BUGS R8 to R11). `rule` names the file.

    reward          start_vllm_server.py: a response without a box votes for the literal "None", an empty box is no
                    vote; answers that both contain "no " are equal; a comparison that times out is tried the other way
                    round, one that fails is skipped; the divisor is the number of responses.
    label           evaluate.py: as above, but a timeout skips the pair, a failure loses the whole question (label
                    None), and the divisor is the number of non-empty answers.
    reward_2025_08  the reward file before 26 August 2025: as `reward`, and an empty box votes for the empty string.

    Meant for a grader that behaves like the authors' (`rzero.grading.OfficialGrader`), asked in both directions. Such a
    grader may raise TimeoutError or GradingError instead of giving a verdict.
    """

    RULES = ("reward", "label", "reward_2025_08")

    def __init__(self, grader: Grader, *, rule: str) -> None:
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
        outcomes = _settle([self._cluster(ballot) for ballot in ballots], grader=self.grader)
        return [
            _vote(counts, divisor=len(ballot) if self.rule == "label" else len(row), answers=row)
            for row, ballot, counts in zip(answers, ballots, outcomes, strict=True)
        ]

    def _extract(self, response: str) -> str:
        answer = self.grader.extract(response)
        return "None" if answer is None else answer

    def _cluster(self, ballot: list[str]) -> Clustering:
        return _official_label(ballot) if self.rule == "label" else _official_reward(ballot)


def distinct_verdicts(pairs: Iterable[Pair], *, grader: Grader) -> dict[Pair, bool]:
    """The verdict on each distinct pair; equal strings are equal without asking the grader."""
    verdicts = dict.fromkeys(pairs, True)
    unequal = [pair for pair in verdicts if pair[0] != pair[1]]
    if isinstance(grader, BatchGrader):
        return verdicts | dict(zip(unequal, grader.equivalent_many(unequal), strict=True))
    return verdicts | {pair: grader.equivalent(*pair) for pair in unequal}


def _vote(counts: dict[str, int], *, divisor: int, answers: tuple[str | None, ...]) -> Vote:
    label = max(counts, key=counts.__getitem__, default=None)  # max returns the first of several maxima
    return Vote(
        label=label,
        count=0 if label is None else counts[label],
        divisor=divisor,
        counts=tuple(counts.items()),
        answers=answers,
    )


def _first_equal(ballot: list[str]) -> Clustering:
    counts: dict[str, int] = {}
    joined: dict[str, str] = {}  # clusters only ever come after the ones seen, so a string always joins the same one
    for answer in ballot:
        if answer not in joined:
            joined[answer] = answer
            for representative in counts:
                if (yield (representative, answer)):
                    joined[answer] = representative
                    break
        counts[joined[answer]] = counts.get(joined[answer], 0) + 1
    return counts


def _official_reward(ballot: list[str]) -> Clustering:
    counts: dict[str, int] = {}
    for answer in ballot:
        joined = answer
        for representative in counts:
            if _cheaply_equal(answer, representative) or (yield from _either_direction(answer, representative)):
                joined = representative
                break
        counts[joined] = counts.get(joined, 0) + 1
    return counts


def _either_direction(answer: str, representative: str) -> Generator[Pair, bool, bool]:
    for pair in ((answer, representative), (representative, answer)):
        try:
            if (yield pair):
                return True
        except TimeoutError:
            continue
        except GradingError:
            return False
    return False


def _official_label(ballot: list[str]) -> Clustering:
    counts: dict[str, int] = {}
    for answer in ballot:
        joined = answer
        for representative in counts:
            try:
                if (
                    _cheaply_equal(answer, representative)
                    or (yield (answer, representative))
                    or (yield (representative, answer))
                ):
                    joined = representative
                    break
            except TimeoutError:
                continue
            except GradingError:
                return {}
        counts[joined] = counts.get(joined, 0) + 1
    return counts


def _cheaply_equal(left: str, right: str) -> bool:
    # "no " is meant for "no solution" and friends; it also equates "piano 5" and "casino odds" (OFFICIAL_BUGS R9)
    return left == right or ("no " in left.lower() and "no " in right.lower())


def _settle(clusterings: Sequence[Clustering], *, grader: Grader) -> list[dict[str, int]]:
    """Run all clusterings side by side; each round asks the grader for the distinct comparisons still open."""
    results: dict[int, dict[str, int]] = {}
    verdicts: dict[Pair, Verdict] = {}
    waiting: dict[int, Pair] = {}

    def advance(number: int) -> None:
        clustering = clusterings[number]
        try:
            pair = waiting.pop(number) if number in waiting else next(clustering)
            while pair in verdicts:
                verdict = verdicts[pair]
                pair = clustering.throw(verdict) if isinstance(verdict, Exception) else clustering.send(verdict)
            waiting[number] = pair
        except StopIteration as finished:
            results[number] = finished.value

    for number in range(len(clusterings)):
        advance(number)
    while waiting:
        open_pairs = list(dict.fromkeys(waiting.values()))
        verdicts.update(zip(open_pairs, _compare(open_pairs, grader=grader), strict=True))
        for number in list(waiting):
            advance(number)
    return [results[number] for number in range(len(clusterings))]


def _compare(pairs: Sequence[Pair], *, grader: Grader) -> list[Verdict]:
    if isinstance(grader, BatchGrader):
        return list(grader.equivalent_many(pairs))
    return [_verdict(grader, *pair) for pair in pairs]


def _verdict(grader: Grader, left: str, right: str) -> Verdict:
    try:
        return grader.equivalent(left, right)
    except (TimeoutError, GradingError) as missing:
        return missing
