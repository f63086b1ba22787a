"""Questions put to the engines of a run, and the votes on their answers.

Polls are the paper's (m answers of the frozen Solver to each question), those of earlier Solvers, and those that are
drawn while the Challenger is still posing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from rzero.interfaces import AskingEngine, RolloutEngine, TextEngine
from rzero.opinions import Mixture
from rzero.policy import Policy
from rzero.processes.ranks import Ranks
from rzero.prompts import Prompts
from rzero.roles import Role
from rzero.runs.stages import Stages
from rzero.runs.weights import Weights
from rzero.types import Group, Json, Prompt, Question, Sampling, Vote

VoteMany: TypeAlias = Callable[[Sequence[Sequence[str]]], list[Vote]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Polling:
    """The poll of the frozen Solver: m answers to each question, their sampling, and the rule of the vote."""

    votes: int
    sampling: Json
    rule: VoteMany

    def __post_init__(self) -> None:
        if self.votes < 1:
            raise ValueError(f"votes (answers per question) must be at least 1, got {self.votes}")

    def of_each(self, seed: int) -> Sampling:
        """Returns how the answers to each question are drawn."""
        return Sampling(n=self.votes, seed=seed, **self.sampling)


@dataclass(frozen=True, slots=True, kw_only=True)
class Polls:
    """Asks the engines of a run: `learning` draws from the policy that learns, `frozen` from a Solver that does not."""

    learning: RolloutEngine
    frozen: RolloutEngine
    prompts: Prompts
    weights: Weights
    stages: Stages
    ranks: Ranks

    def sync(self, engine: RolloutEngine, role: Role, iteration: int) -> Policy:
        """Gives an engine the weights of a role after an iteration, and returns them."""
        self.stages.watch(f"loading the {role.capitalize()}")
        policy = self.weights.load(role, iteration)
        self.stages.watch(f"giving the engine the {role.capitalize()}")
        engine.sync(policy)
        return policy

    def earlier(
        self, part: str, shares: Mixture, polling: Polling, questions: Sequence[Question | None], seed: int
    ) -> list[Vote | None]:
        """Returns the vote of an earlier Solver, or a mean of some, on each question; the engine keeps its weights.

        part: whose price it is.
        """
        with self.stages.prices.of(part, responses=polling.votes * sum(question is not None for question in questions)):
            self.stages.watch("giving the engine an earlier Solver")
            self.frozen.sync(self.weights.load_mean("solver", shares))
            return self.votes(polling, questions, seed)

    def votes(self, polling: Polling, questions: Sequence[Question | None], seed: int) -> list[Vote | None]:
        """Returns the frozen Solver's vote on each question; None where there is no question."""
        return self._votes(polling, self.answers_to(questions, polling.of_each(seed)))

    def answers_to(self, questions: Sequence[Question | None], sampling: Sampling) -> list[list[str] | None]:
        """The texts that the frozen Solver answers to each question; None where there is no question."""
        prompts = [self.prompts.solver(question.text) for question in questions if question is not None]
        texts = iter(self.texts(self.frozen, prompts, sampling, doing="voting, responses") if prompts else ())
        return [next(texts) if question is not None else None for question in questions]

    def texts(
        self, engine: RolloutEngine, prompts: Sequence[Prompt], sampling: Sampling, *, doing: str
    ) -> list[list[str]]:
        """The texts that an engine responds to each prompt. doing: what is said of it meanwhile."""
        progress = self.stages.watch(doing)
        if isinstance(engine, TextEngine):
            return engine.texts(prompts, sampling, progress=progress)
        groups = engine.generate(prompts, sampling, progress=progress)
        return [[completion.text for completion in group.completions] for group in groups]

    def votes_while_posing(
        self,
        polling: Polling,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        *,
        parse: Callable[[str], Question | None],
        seed: int,
    ) -> tuple[list[Group], list[Vote | None]] | None:
        """Returns the Challenger's groups and the votes on their questions, drawn while others are still being posed.

        None where one engine cannot draw from both policies at once.
        """
        learning, frozen = self.learning, self.frozen
        if not isinstance(learning, AskingEngine) or not learning.beside(frozen):
            return None

        def ask(response: str) -> Prompt | None:
            question = parse(response)
            return self.prompts.solver(question.text) if question else None

        answers = polling.of_each(seed)
        progress = self.stages.watch("drawing and voting, responses")
        groups, texts = learning.generate_and_ask(
            prompts, sampling, ask=ask, other=frozen, answers=answers, progress=progress
        )
        return groups, self._votes(polling, texts)

    def _votes(self, polling: Polling, texts: Sequence[list[str] | None]) -> list[Vote | None]:
        """One vote for the answers to each question; None where there is no question."""
        asked = [answers for answers in texts if answers is not None]
        self.stages.watch("counting votes")
        votes = iter(self.ranks.shared(polling.rule)(asked) if asked else ())
        return [next(votes) if answers is not None else None for answers in texts]
