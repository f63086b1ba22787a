"""The seams of R-Zero as Protocols. Anything with the right methods fits; nothing has to be inherited.

votes     = [vote(group) for group in solver_engine.generate(prompts, sampling)]
rewards   = challenger_reward(questions, votes)
labelled  = curriculum.select(questions, votes)
scores    = suite.evaluate(engine, policy=policy)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from rzero.types import Artifact, Group, Json, LabelledQuestion, Prompt, Question, RewardBreakdown, Sampling, Vote

if TYPE_CHECKING:  # the processes that grade import this file, and need neither torch nor transformers
    from rzero.policy import Policy
    from rzero.processes.ranks import Ranks

Responses: TypeAlias = Sequence[Sequence[str]]
"""The texts drawn for several questions: `responses[i][j]` is the j-th response to question i."""


class Progress(Protocol):
    """Told, while something long is under way, how far it is: `progress(done, total, tokens)`.

    tokens: drawn or read so far, which says how fast it goes; 0 where nobody counts them.
    """

    def __call__(self, done: int, total: int, tokens: int = 0, /) -> object: ...


Watch: TypeAlias = Callable[[str], Progress]
"""Called with the name of a part of a step when it begins; returns what is told how far it is."""


def unwatched(what: str) -> Progress:
    """A `Watch` that shows nobody anything."""
    return lambda done, total, tokens=0: None


Ask: TypeAlias = Callable[[str], Prompt | None]
"""Returns what the text of a completion makes us ask somebody else; None: nothing."""


@runtime_checkable
class RolloutEngine(Protocol):
    """Draws completions from a policy.

    for step in steps:
        engine.sync(policy)                          # from here on generate() samples from these weights
        groups = engine.generate(prompts, sampling)  # len(groups) == len(prompts), same order

    `progress` counts completions; its last call has done == total.
    """

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, progress: Progress | None = None
    ) -> list[Group]: ...

    def sync(self, policy: Policy) -> None: ...

    def close(self) -> None: ...


@runtime_checkable
class ShardableEngine(RolloutEngine, Protocol):
    """A rollout engine that can draw a share of a call.

    share=(part, parts) draws only that part of all completions, counted prompt by prompt, each exactly as without; the
    groups then lack the others.
    """

    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        *,
        progress: Progress | None = None,
        share: tuple[int, int] = (0, 1),
    ) -> list[Group]: ...


@runtime_checkable
class TextEngine(RolloutEngine, Protocol):
    """A rollout engine from which texts can be had alone, where nothing is learned from ids and log-probs.

    texts[i][j] == engine.generate(prompts, sampling)[i].completions[j].text
    """

    def texts(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, progress: Progress | None = None
    ) -> list[list[str]]: ...


@runtime_checkable
class RestingEngine(RolloutEngine, Protocol):
    """A rollout engine that can give memory back until it is asked to draw again."""

    def rest(self) -> None: ...


@runtime_checkable
class ServableEngine(TextEngine, RestingEngine, Protocol):
    """A rollout engine on servers, from which the first of several processes draws for all.

    Every rank calls `sync` with `ranks`: together they gather split weights and check the servers against the policy.
    """

    def sync(self, policy: Policy, *, ranks: Ranks = ...) -> None: ...


@runtime_checkable
class AskingEngine(RolloutEngine, Protocol):
    """A rollout engine that draws for another policy while it still draws for its own.

    if engine.beside(other):        # the weights of both are there at the same time
        groups, texts = engine.generate_and_ask(prompts, sampling, ask=ask, other=other, answers=answers)

    gives, with the same random numbers, what these do one after the other:

    groups = engine.generate(prompts, sampling)
    asked  = [prompt for group in groups for c in group.completions if (prompt := ask(c.text)) is not None]
    texts  = other.generate(asked, answers)   # there the texts, None where nothing was asked
    """

    def beside(self, other: RolloutEngine) -> bool: ...

    def generate_and_ask(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        *,
        ask: Ask,
        other: RolloutEngine,
        answers: Sampling,
        progress: Progress | None = None,
    ) -> tuple[list[Group], list[list[str] | None]]: ...


@runtime_checkable
class DistributedEngine(RolloutEngine, Protocol):
    """A rollout engine that can be one of several, each in a process of its own."""

    def across(self, ranks: Ranks) -> RolloutEngine:
        """Returns an engine that all ranks call alike, and that gives each of them all groups.

        Raises ValueError when this engine's settings allow one process only.
        """


class Grader(Protocol):
    """Finds the answer in a response and compares answers by two relations.

    grader.accepts(prediction, reference)   # does it answer as the reference does? forgiving: evaluation, gold controls
    grader.same(left, right)                # are they one answer? an equivalence relation: votes, the Solver's pay
    grader.classes([answers, ...])          # the same among the answers to each question, which complete one another

    All are total: any text gives a verdict within bounded CPU time, memory and recursion. Verdicts depend on nothing
    but the texts. `same` is reflexive (but for blank texts), symmetric and transitive. `classes` gives for each list of
    answers to one question, and each answer in it, the index of the first answer of its class; which answers share one
    depends on the set of answers to that question alone, not on their order or on other questions.
    """

    def extract(self, response: str) -> str | None: ...

    def accepts(self, prediction: str, reference: str) -> bool: ...

    def accepts_many(self, pairs: Sequence[tuple[str, str]]) -> list[bool]: ...

    def same(self, left: str, right: str) -> bool: ...

    def same_many(self, pairs: Sequence[tuple[str, str]]) -> list[bool]: ...

    def classes(self, batch: Sequence[Sequence[str]]) -> list[list[int]]: ...

    def close(self) -> None: ...


class VoteRule(Protocol):
    """Turns the Solver's responses to each question of a batch into a vote.

    vote = rule([completion.text for completion in group.completions])
    votes = rule.vote_many([[completion.text for completion in group.completions] for group in groups])
    """

    def __call__(self, responses: Sequence[str]) -> Vote: ...

    def vote_many(self, batch: Sequence[Sequence[str]]) -> list[Vote]: ...


class ChallengerReward(Protocol):
    """Pays a whole batch of posed questions at once, because the repetition penalty compares them with one another.

    `questions[i]` is None when response i has no question block; `votes[i]` is None when question i was not put to
    the Solver. The result has one breakdown per response, in order.
    """

    def __call__(self, questions: Sequence[Question | None], votes: Sequence[Vote | None]) -> list[RewardBreakdown]: ...


class SolverReward(Protocol):
    """Pays the responses to each question against its pseudo-label.

    `groups[i]` holds the responses to question i, `labels[i]` its label. The result has a breakdown per response, group
    by group, so no reward can mix the answers of two questions.
    """

    def __call__(self, groups: Responses, labels: Sequence[str]) -> list[list[RewardBreakdown]]: ...


class Curriculum(Protocol):
    """Decides which labelled candidates the Solver trains on; every drop has a named reason.

    labelled = curriculum.select(questions, votes, iteration=1)
    """

    def select(
        self, questions: Sequence[Question | None], votes: Sequence[Vote | None], *, iteration: int
    ) -> list[LabelledQuestion]: ...


class QuestionBank(Protocol):
    """Keeps what was posed in each iteration, kept or not."""

    def put(self, iteration: int, questions: Sequence[LabelledQuestion]) -> None: ...

    def get(self, iteration: int) -> list[LabelledQuestion]: ...


class EvaluationScores(Protocol):
    """The result of an evaluation. `overall` is its one number, in percent; `to_json` keeps all of it."""

    @property
    def overall(self) -> float: ...

    def metrics(self) -> Mapping[str, float]: ...

    def to_json(self) -> Json: ...


@runtime_checkable
class BenchmarkSuite(Protocol):
    """Scores a policy through its engine under a fixed protocol.

    `progress` counts `benchmarks`; `watch` is given the name of each part of one, whose responses are counted then.

    scores = suite.evaluate(engine, policy=policy)     # the one that the engine was synced with
    """

    @property
    def benchmarks(self) -> Sequence[object]: ...

    def evaluate(
        self,
        engine: RolloutEngine,
        *,
        policy: Policy | None = None,
        progress: Progress | None = None,
        watch: Watch | None = None,
    ) -> EvaluationScores: ...


@runtime_checkable
class Tracker(Protocol):
    """Receives metrics named `stage/name`, and what a stage made. Steps count up and never repeat within an attempt.

    tracker.log({"iteration": 1.0, **metrics}, step=7)
    tracker.questions(labelled, step=7)          # what was posed, belonging to the metrics of the same step
    tracker.artifact(made)                       # told again, with the same content, when a stage is repeated
    """

    def log(self, metrics: Mapping[str, float], *, step: int) -> None: ...

    def questions(self, labelled: Sequence[LabelledQuestion], *, step: int) -> None: ...

    def artifact(self, made: Artifact) -> None: ...

    def close(self) -> None: ...


class Embedder(Protocol):
    """Places texts in a space where those of one kind lie near one another.

    vectors = embedder.embed(["What is 3 + 4?", "Name a prime."])   # [2, E], float32, each of length 1

    A pure function of the texts: what one of them gives may depend on the others by rounding alone.
    """

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]: ...


class QuestionAudit(Protocol):
    """Measures questions from outside the loop (for instance with an oracle). Its numbers reach the tracker only."""

    def __call__(self, questions: Sequence[LabelledQuestion]) -> Mapping[str, float]: ...
