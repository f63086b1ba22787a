"""R-Zero's loop (paper, algorithm 1): from one base model, iteration after iteration, without outside data.

    for i in 1 .. iterations:
        Q_i = GRPO(Q_{i-1}; reward = uncertainty of the frozen S_{i-1} about the posed question)
        D_i = questions of Q_i, labelled by majority vote of S_{i-1}, kept inside the band
        S_i = GRPO(S_{i-1}; reward = answer equals the label)
        evaluate S_i

Every stage is a pure function of the run's seed and of what earlier stages left on disk, and every step of one is a
function of the weights before it, so a run that was stopped goes on from its last complete stage or checkpoint and ends
with the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeAlias

import torch

from rzero.acceptance import Acceptance
from rzero.engines.across import ServedEngine, across
from rzero.grpo import PolicyLoss
from rzero.interfaces import (
    BenchmarkSuite,
    ChallengerReward,
    Curriculum,
    QuestionAudit,
    QuestionBank,
    RolloutEngine,
    SolverReward,
)
from rzero.modules import Challenger, GRPOSettings, Solver
from rzero.modules.fit import question_batches
from rzero.modules.reference import reference_of
from rzero.modules.solver import voted_label
from rzero.opinions import Voters
from rzero.policy import Policy
from rzero.polls import Polling, Polls
from rzero.processes.ranks import Ranks, alone
from rzero.prompts import Prompts
from rzero.roads import Rewording, Substitution, along_other_roads
from rzero.runs.questions import keep
from rzero.runs.stages import Stages
from rzero.runs.training import MakeTrainer, train
from rzero.runs.weights import Weights
from rzero.seeding import derive
from rzero.signals import Signals
from rzero.types import Json, LabelledQuestion, Question, Sampling, Vote

MakeOptimizer: TypeAlias = Callable[..., torch.optim.Optimizer]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChallengerPhase:
    """Settings and parts of a Challenger's training."""

    settings: GRPOSettings
    loss: PolicyLoss
    optimizer: MakeOptimizer
    parse: Callable[[str], Question | None]
    polling: Polling
    reward: Callable[[int], ChallengerReward]
    """Makes the reward of a phase from the phase's seed (only random controls look at it)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CurriculumPhase:
    """Settings and parts of sampling, labelling and choosing candidates. anchors: others that vote along.

    rewording, substitution: other roads that have to lead to the labels of what the rule kept.
    """

    candidates: int
    sampling: Json
    parse: Callable[[str], Question | None]
    polling: Polling
    rule: Curriculum
    anchors: Voters | None = None
    rewording: Rewording | None = None
    substitution: Substitution | None = None

    def __post_init__(self) -> None:
        if self.candidates < 1:
            raise ValueError(f"curriculum.candidates must be at least 1, got {self.candidates}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SolverPhase:
    """Settings and parts of a Solver's training. acceptance: the test that its outcome has to stand (None: none)."""

    settings: GRPOSettings
    loss: PolicyLoss
    optimizer: MakeOptimizer
    reward: Callable[[int], SolverReward]
    label: Callable[[LabelledQuestion], str] = voted_label
    """Returns the label that a question's responses are compared with."""
    acceptance: Acceptance | None = None


@dataclass(slots=True, kw_only=True)
class SelfPlay:
    """A run: the parts of the method, a seed, and `stages`, which keep the books.

    `make_engine` is called twice: the learning policy and the frozen Solver are sampled in the same step. `audit`
    measures questions from outside and returns numbers for the tracker; nothing it says is kept for training.
    `signals` does so from inside, without an oracle.
    `launch` is entered for the whole run and says which of several processes this one is: all of them run the same
    loop, and only the first writes.
    """

    seed: int
    iterations: int
    make_engine: Callable[[], RolloutEngine]
    make_trainer: MakeTrainer
    prompts: Prompts
    challenger: ChallengerPhase
    curriculum: CurriculumPhase
    solver: SolverPhase
    suite: BenchmarkSuite
    audit: QuestionAudit
    signals: Signals | None = None
    bank: QuestionBank
    weights: Weights
    stages: Stages
    launch: Callable[[], AbstractContextManager[Ranks]] = alone
    ranks: Ranks = field(init=False, default_factory=Ranks)
    learning: RolloutEngine = field(init=False)
    frozen: RolloutEngine = field(init=False)

    @property
    def polls(self) -> Polls:
        """What is asked of the engines, while they run."""
        return Polls(
            learning=self.learning,
            frozen=self.frozen,
            prompts=self.prompts,
            weights=self.weights,
            stages=self.stages,
            ranks=self.ranks,
        )

    def run(self) -> None:
        """Does every stage that is not complete yet.

        Raises NothingKept when an iteration leaves the Solver without questions, NothingLearned when a phase had no
        usable update, Collapsed when the monitor was told to stop at its signs.
        """
        if self.iterations < 1:
            raise ValueError(f"iterations must be at least 1, got {self.iterations}")
        with self._started():
            self.stages.run("evaluation", 0, self.evaluate)
            for iteration in range(1, self.iterations + 1):
                self.stages.run("challenger", iteration, self.fit_challenger)
                self.stages.run("questions", iteration, self.build_curriculum)
                self.stages.run("solver", iteration, self.fit_solver)
                self.stages.run("evaluation", iteration, self.evaluate)

    def fit_challenger(self, iteration: int) -> str:
        """Trains Q_i from its predecessor, against the frozen S_{i-1}; with zero steps it stays untrained."""
        phase, seed = self.challenger, derive(self.seed, iteration, "challenger")
        self.stages.expect(steps=max(phase.settings.steps, 1))
        if phase.settings.steps == 0:
            return "not trained (steps=0)"
        self.polls.sync(self.frozen, "solver", iteration - 1)
        self.stages.watch("loading what learns")
        policy = self.weights.load_start("challenger", iteration)
        module = Challenger(
            request=self.prompts.challenger(),
            parse=phase.parse,
            ask_solver=lambda questions, step: self.polls.votes(phase.polling, questions, derive(seed, "votes", step)),
            ask_meanwhile=lambda prompts, sampling, step: self.polls.votes_while_posing(
                phase.polling, prompts, sampling, parse=phase.parse, seed=derive(seed, "votes", step)
            ),
            reward=self.ranks.shared(phase.reward(seed)),
            policy=policy,
            reference=reference_of(policy, ranks=self.ranks) if phase.loss.needs_reference else None,
            engine=self.learning,
            settings=phase.settings,
            loss=phase.loss,
            optimizer=phase.optimizer,
            batches=range(phase.settings.steps),
            seed=seed,
            ranks=self.ranks,
            watch=self.stages.watch,
        )
        made_of = self.weights.start_name("challenger", iteration), self.weights.name("solver", iteration - 1)
        return train(module, stages=self.stages, make_trainer=self.make_trainer, made_of=made_of)

    def build_curriculum(self, iteration: int) -> str:
        """Builds D_i: candidates of Q_i, labelled by S_{i-1}, every one of them kept or dropped for a reason."""
        phase, seed = self.curriculum, derive(self.seed, iteration, "questions")
        self.stages.expect(steps=3)
        self.polls.sync(self.learning, "challenger", iteration)
        sampling = Sampling(n=phase.candidates, seed=derive(seed, "candidates"), **phase.sampling)
        progress = self.stages.watch("posing, responses")
        [posed] = self.learning.generate([self.prompts.challenger()], sampling, progress=progress)
        questions = [phase.parse(completion.text) for completion in posed.completions]
        self.stages.advance("posed")
        self.polls.sync(self.frozen, "solver", iteration - 1)
        votes = self.polls.votes(phase.polling, questions, derive(seed, "votes"))
        votes = self.with_others(votes, questions, iteration=iteration, seed=seed)
        self.stages.advance("labelled")
        self.stages.watch("choosing")
        labelled = self.ranks.shared(phase.rule.select)(questions, votes, iteration=iteration)
        labelled = along_other_roads(
            labelled, rewording=phase.rewording, substitution=phase.substitution, polls=self.polls,
            polling=phase.polling, iteration=iteration, seed=seed,
        )  # fmt: skip
        made_of = self.weights.name("challenger", iteration), self.weights.name("solver", iteration - 1)
        needed = self.solver.settings.prompts_per_step
        seen = self.look(labelled, iteration=iteration, seed=seed)
        return keep(
            labelled, stages=self.stages, bank=self.bank, audit=self.audit, seen=seen, made_of=made_of, needed=needed
        )

    def with_others(
        self, votes: Sequence[Vote | None], questions: Sequence[Question | None], *, iteration: int, seed: int
    ) -> list[Vote | None]:
        """Returns the votes with those of the anchors on the same questions (`Vote.others`)."""
        anchors = self.curriculum.anchors
        if anchors is None:
            return list(votes)
        polling = replace(self.curriculum.polling, votes=anchors.votes)
        others = [
            self.polls.earlier("anchors", shares, polling, questions, derive(seed, "anchors", *shares))
            for shares in anchors.of(iteration - 1)
        ]
        return [
            vote and replace(vote, others=tuple(other for ballot in others if (other := ballot[index])))
            for index, vote in enumerate(votes)
        ]

    def look(self, labelled: Sequence[LabelledQuestion], *, iteration: int, seed: int) -> dict[str, float]:
        """Returns what is seen of the questions without an oracle; earlier Solvers are asked some of them again."""
        if self.signals is None:
            return {}
        sample = self.signals.sample(labelled, iteration=iteration)
        questions = [Question(text=item.question, answer=item.challenger_answer) for item in sample]
        polling = replace(self.curriculum.polling, votes=self.signals.votes)
        earlier = {
            name: self.polls.earlier("signals", {voter: 1.0}, polling, questions, derive(seed, "signals", voter))
            for name, voter in self.signals.voters(iteration).items()
        }
        return self.ranks.shared(self.signals)(labelled, earlier, iteration=iteration)

    def fit_solver(self, iteration: int) -> str:
        """Trains S_i from its predecessor on the kept questions and their labels."""
        phase, seed = self.solver, derive(self.seed, iteration, "solver")
        self.stages.expect(steps=max(phase.settings.steps, 1))
        if phase.settings.steps == 0:
            return "not trained (steps=0)"
        if sign := self.stages.rolled_back("questions", iteration):
            return f"not trained, the weights stay those before these questions: {sign}"
        kept = [question for question in self.bank.get(iteration) if question.kept]
        held_out: list[LabelledQuestion] = []
        if phase.acceptance is not None:
            kept, held_out = phase.acceptance.split(kept, iteration=iteration)
        self.stages.watch("loading what learns")
        policy = self.weights.load_start("solver", iteration)
        module = Solver(
            ask=self.prompts.solver,
            reward=self.ranks.shared(phase.reward(seed)),
            label=phase.label,
            policy=policy,
            reference=reference_of(policy, ranks=self.ranks) if phase.loss.needs_reference else None,
            engine=self.learning,
            settings=phase.settings,
            loss=phase.loss,
            optimizer=phase.optimizer,
            batches=question_batches(
                kept, steps=phase.settings.steps, size=phase.settings.prompts_per_step, seed=derive(seed, "order")
            ),
            seed=seed,
            ranks=self.ranks,
            watch=self.stages.watch,
        )
        made_of = f"questions_{iteration}", self.weights.start_name("solver", iteration)
        against = partial(self.evidence_against, module.policy, held_out, iteration=iteration, seed=seed)
        return train(module, stages=self.stages, make_trainer=self.make_trainer, made_of=made_of, against=against)

    def evidence_against(
        self, policy: Policy, held_out: Sequence[LabelledQuestion], *, iteration: int, seed: int
    ) -> str:
        """Returns what the acceptance test says against a trained Solver; empty where it says nothing."""
        test = self.solver.acceptance
        if test is None or not held_out:
            return ""
        polling = replace(self.curriculum.polling, votes=test.answers)
        prompts = [self.prompts.solver(question.question) for question in held_out]
        sampling, drawn = polling.of_each(derive(seed, "acceptance")), []
        with self.stages.prices.of("acceptance", responses=2 * len(prompts) * test.answers):
            # the engine that knows the trained policy, which may be split over ranks, draws from it
            before = self.weights.load_start("solver", iteration)
            for engine, contender in ((self.learning, policy), (self.frozen, before)):
                engine.sync(contender)
                drawn.append(self.polls.texts(engine, prompts, sampling, doing="accepting, responses"))
            labels = [self.solver.label(question) for question in held_out]
            verdict = self.ranks.shared(test.judge)(labels, new=drawn[0], old=drawn[1])
        self.stages.log(verdict.metrics())
        if verdict.accepted:
            return ""
        return (
            f"{verdict.new:.3f} of its answers are right where {verdict.old:.3f} were (evidence {verdict.evidence:.1f})"
        )

    def evaluate(self, iteration: int) -> str:
        """Scores S_i under the protocol; iteration 0 is the base model."""
        self.stages.expect(steps=len(self.suite.benchmarks))
        policy = self.polls.sync(self.frozen, "solver", iteration)
        policy = replace(policy, known_hash=self.ranks.shared(policy.weights_hash)())
        scores = self.suite.evaluate(
            self.frozen,
            policy=policy,
            progress=lambda done, total, tokens=0: self.stages.advance(),
            watch=lambda what: self.stages.watch(f"{what}, responses"),
        )
        self.stages.keep_scores(scores)
        return f"overall {scores.overall:.2f}"

    def close(self) -> None:
        """Closes what metrics are sent to."""
        self.stages.tracker.close()

    @contextmanager
    def _started(self) -> Iterator[None]:
        """The processes and the two engines of the run, while the context lasts."""
        with self.launch() as ranks:
            self.ranks = ranks
            self.stages.open(ranks, iterations=self.iterations)
            self.learning, self.frozen = (across(self.make_engine(), ranks) for _ in range(2))
            if isinstance(self.learning, ServedEngine) and not ranks.first:
                self.weights = replace(self.weights, make=partial(self.weights.make, outline=True))
            try:
                yield
            finally:
                self.stages.narrator.close()
                self.learning.close()
                self.frozen.close()
