"""Other roads to an answer: the same question in other words, and the answer put back into the question.

A gate on the data that is strict enough is what stability needs (arXiv 2605.22217). A wrong majority that hangs on how
a question is put does not survive another wording, and to see that an answer does not fit is often easier than to find
one that does. Both are asked about what the rule has kept; they take questions away and give no labels.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from rzero.curriculum import dropped
from rzero.interfaces import Grader, Responses
from rzero.modules.solver import voted_label
from rzero.polls import Polling, Polls
from rzero.rewards import PaperSolverReward
from rzero.seeding import derive
from rzero.types import Json, LabelledQuestion, Prompt, Question, Sampling

YES = "yes"


class Rewording:
    """The Challenger says a question in other words, and the Solver answers that `votes` times.

    user: the request, with {question} in it. parse: from the response to the new question (None: there is none).
    least: the share of the answers, in [0, 1], that has to be the label; a question that could not be said in other
    words has 0 of it.
    """

    def __init__(
        self,
        grader: Grader,
        *,
        system: str,
        user: str,
        parse: Callable[[str], Question | None],
        sampling: Json,
        votes: int,
        least: float,
    ) -> None:
        _require("curriculum.rewording", user, "{question}", votes=votes, least=least)
        self.system, self.user, self.parse, self.votes, self.least = system, user, parse, votes, least
        self._sampling, self._right = sampling, PaperSolverReward(grader)

    def sampling(self, seed: int) -> Sampling:
        """Returns how the new wordings are drawn, one for each question."""
        return Sampling(n=1, seed=seed, **self._sampling)

    def request(self, question: str) -> Prompt:
        return Prompt(system=self.system or None, user=_filled(self.user, {"question": question}))

    def leads_to_labels(
        self, kept: Sequence[LabelledQuestion], *, polls: Polls, polling: Polling, seed: int
    ) -> list[bool]:
        """Returns whether each question leads to its label in the words that the Challenger finds."""
        with polls.stages.prices.of("rewording", responses=len(kept)):
            requests = [self.request(item.question) for item in kept]
            sampling = self.sampling(derive(seed, "rewording"))
            said = polls.texts(polls.learning, requests, sampling, doing="rewording, responses")
        asked = [self.parse(text) for [text] in said]
        responses = self.votes * sum(question is not None for question in asked)
        with polls.stages.prices.of("rewording", responses=responses):
            of_each = replace(polling, votes=self.votes).of_each(derive(seed, "rewording", "votes"))
            answers = polls.answers_to(asked, of_each)
        labels = [voted_label(item) for item in kept]
        return polls.ranks.shared(self.agrees)(labels, [texts or [] for texts in answers])

    def agrees(self, labels: Sequence[str], answered: Responses) -> list[bool]:
        """Returns for each label whether the responses to the new wording lead to it; none at all do not."""
        return [_share(paid.total for paid in group) >= self.least for group in self._right(answered, labels)]


class Substitution:
    """The Solver is asked `votes` times whether the label is the answer to its question, and says yes or no in a box.

    user: the request, with {question} and {answer} in it. least: the share of yes, in [0, 1], that is enough.
    """

    def __init__(self, grader: Grader, *, system: str, user: str, votes: int, least: float) -> None:
        _require("curriculum.substitution", user, "{question}", "{answer}", votes=votes, least=least)
        self.grader, self.system, self.user, self.votes, self.least = grader, system, user, votes, least

    def request(self, question: str, answer: str) -> Prompt:
        return Prompt(system=self.system or None, user=_filled(self.user, {"question": question, "answer": answer}))

    def leads_to_labels(
        self, kept: Sequence[LabelledQuestion], *, polls: Polls, polling: Polling, seed: int
    ) -> list[bool]:
        """Returns whether the Solver says of each label that it fits its question."""
        with polls.stages.prices.of("substitution", responses=self.votes * len(kept)):
            requests = [self.request(item.question, voted_label(item)) for item in kept]
            of_each = replace(polling, votes=self.votes).of_each(derive(seed, "substitution"))
            answers = polls.texts(polls.frozen, requests, of_each, doing="substituting, responses")
        return polls.ranks.shared(self.fits)(answers)

    def fits(self, answered: Responses) -> list[bool]:
        """Returns for each list of responses whether enough of them say yes."""
        return [_share(self._says_yes(response) for response in group) >= self.least for group in answered]

    def _says_yes(self, response: str) -> bool:
        return (self.grader.extract(response) or "").strip(" .").casefold() == YES


def along_other_roads(
    labelled: Sequence[LabelledQuestion],
    *,
    rewording: Rewording | None,
    substitution: Substitution | None,
    polls: Polls,
    polling: Polling,
    iteration: int,
    seed: int,
) -> list[LabelledQuestion]:
    """Returns the questions, of the new ones dropped to whose label another road does not lead."""
    items = list(labelled)
    if rewording is None and substitution is None:
        return items
    polls.sync(polls.frozen, "solver", iteration - 1)  # anchors may have been asked meanwhile
    for reason, road in (("rewording_differs", rewording), ("answer_does_not_fit", substitution)):
        kept = [place for place, item in enumerate(items) if item.kept and item.iteration == iteration]
        if road is not None and kept:
            passed = road.leads_to_labels([items[place] for place in kept], polls=polls, polling=polling, seed=seed)
            items = dropped(items, {place: reason for place, right in zip(kept, passed, strict=True) if not right})
    return items


def _share(values: Iterable[float]) -> float:
    numbers = list(values)
    return sum(numbers) / len(numbers) if numbers else 0.0


def _filled(template: str, values: Mapping[str, str]) -> str:
    """The template with its slots filled in one pass: a slot that is spelled out in a question is text."""
    return re.sub(r"\{(question|answer)\}", lambda slot: values[slot[1]], template)


def _require(key: str, user: str, *slots: str, votes: int, least: float) -> None:
    if lost := [slot for slot in slots if slot not in user]:
        raise ValueError(f"{key}.user must contain {' and '.join(lost)}, got {user!r}")
    if votes < 1 or not 0 <= least <= 1:
        raise ValueError(f"{key} needs votes >= 1 and least in [0, 1], got {votes} and {least}")
