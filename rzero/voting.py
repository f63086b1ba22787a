"""The vote: which answer most of the Solver's responses to a question give (paper section 3.3; docs/method.md#vote).

Answers join the first cluster whose representative, its first member, they equal; ties go to the cluster seen first.
Equality is the grader's business, but equal strings never reach it, and a whole batch of questions is voted on in
rounds, so that a grader with worker processes gets all open comparisons of all questions at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterable, Mapping, Sequence
from typing import Protocol, runtime_checkable

from rzero.interfaces import Grader
from rzero.types import Vote

Pair = tuple[str, str]
Verdict = bool | Exception
# asks for one comparison at a time, is sent the verdict, and returns the first member of the cluster each answer joins
Clustering = Generator[Pair, bool, dict[str, str]]


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
        ballots = [[answer for answer in row if answer is not None] for row in answers]
        clusters = joined_clusters(ballots, grader=self.grader)
        return [
            _vote(ballot, joined, divisor=len(row), answers=row)
            for row, ballot, joined in zip(answers, ballots, clusters, strict=True)
        ]


class OfficialVote:
    """The authors' votes, which differ between their files (C; docs/authors_code.md, R8 to R11). `rule` names the file.

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
        cluster = _official_label if self.rule == "label" else _official_reward
        clusters = _settle([cluster(ballot) for ballot in ballots], grader=self.grader)
        return [
            _vote(ballot, joined, divisor=len(ballot) if self.rule == "label" else len(row), answers=row)
            for row, ballot, joined in zip(answers, ballots, clusters, strict=True)
        ]

    def _extract(self, response: str) -> str:
        answer = self.grader.extract(response)
        return "None" if answer is None else answer


def distinct_verdicts(pairs: Iterable[Pair], *, grader: Grader) -> dict[Pair, bool]:
    """The verdict on each distinct pair; equal strings are equal without asking the grader."""
    verdicts = dict.fromkeys(pairs, True)
    unequal = [pair for pair in verdicts if pair[0] != pair[1]]
    if isinstance(grader, BatchGrader):
        return verdicts | dict(zip(unequal, grader.equivalent_many(unequal), strict=True))
    return verdicts | {pair: grader.equivalent(*pair) for pair in unequal}


def joined_clusters(ballots: Sequence[Sequence[str]], *, grader: Grader) -> list[dict[str, str]]:
    """For each ballot the cluster, named by its first member, that each of its distinct answers joins."""
    return _settle([_first_equal(ballot) for ballot in ballots], grader=grader)


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


# In the three rules below a string is looked at once: clusters only ever come after the ones seen, so it would join the
# same one again.


def _first_equal(ballot: Sequence[str]) -> Clustering:
    joined: dict[str, str] = {}
    for answer in dict.fromkeys(ballot):
        joined[answer] = answer
        for representative in _representatives(joined):
            if (yield (representative, answer)):
                joined[answer] = representative
                break
    return joined


def _official_reward(ballot: Sequence[str]) -> Clustering:
    joined: dict[str, str] = {}
    for answer in dict.fromkeys(ballot):
        joined[answer] = answer
        for representative in _representatives(joined):
            if _share_no(answer, representative) or (yield from _either_direction(answer, representative)):
                joined[answer] = representative
                break
    return joined


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


def _official_label(ballot: Sequence[str]) -> Clustering:
    joined: dict[str, str] = {}
    for answer in dict.fromkeys(ballot):
        joined[answer] = answer
        for representative in _representatives(joined):
            try:
                if (
                    _share_no(answer, representative)
                    or (yield (answer, representative))
                    or (yield (representative, answer))
                ):
                    joined[answer] = representative
                    break
            except TimeoutError:
                continue
            except GradingError:
                return {}
    return joined


def _representatives(joined: Mapping[str, str]) -> list[str]:
    """The first members of the clusters before the newest answer."""
    return [answer for answer, cluster in list(joined.items())[:-1] if answer == cluster]


def _share_no(left: str, right: str) -> bool:
    # meant for "no solution" and friends; it also equates "piano 5" and "casino odds" (docs/authors_code.md, R9)
    return "no " in left.lower() and "no " in right.lower()


def _settle(clusterings: Sequence[Clustering], *, grader: Grader) -> list[dict[str, str]]:
    """Run all clusterings side by side; each round asks the grader for the distinct comparisons still open."""
    results: dict[int, dict[str, str]] = {}
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
