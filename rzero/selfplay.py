"""R-Zero's loop (paper, algorithm 1): from one base model, round after round, without outside data.

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

import functools
import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rzero.collapse import CollapseMonitor, RollBack
from rzero.durable import fingerprints, require_space
from rzero.engines.across import across
from rzero.interfaces import ChallengerReward, Curriculum, QuestionAudit, RolloutEngine, SolverReward
from rzero.modules import Challenger, GRPOModule, GRPOSettings, Solver, checkpoint
from rzero.modules.fit import fit, question_batches
from rzero.modules.reference import reference_of
from rzero.modules.solver import voted_label
from rzero.policy import Policy
from rzero.processes.ranks import Ranks, alone
from rzero.prompts import Prompts
from rzero.roles import TWO_MODELS, Role, Roles
from rzero.runs.bank import JsonlBank
from rzero.runs.health import GraderHealth
from rzero.runs.ledger import Ledger
from rzero.runs.progress import Narrator
from rzero.seeding import derive
from rzero.types import Artifact, LabelledQuestion, Question, Sampling, Vote

CHECKPOINTS = "checkpoints"  # the folder of a run for the phase in progress
VoteMany = Callable[[Sequence[Sequence[str]]], list[Vote]]


class NothingLearned(RuntimeError):
    """Not one update of a phase had a finite gradient: its weights are those it started from."""


class NothingKept(RuntimeError):
    """No question of an iteration survived the curriculum: there is nothing for the Solver to learn from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Polling:
    """How questions are put to the frozen Solver: m answers each, their sampling, and the rule of the vote."""

    votes: int
    sampling: Mapping[str, Any]
    rule: VoteMany

    def __post_init__(self) -> None:
        if self.votes < 1:
            raise ValueError(f"votes (answers per question) must be at least 1, got {self.votes}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChallengerPhase:
    """How a Challenger is trained."""

    settings: GRPOSettings
    loss: Any
    optimizer: Callable[..., Any]
    parse: Callable[[str], Question | None]
    polling: Polling
    reward: Callable[[int], ChallengerReward]
    """Makes the reward of a phase from the phase's seed (only random controls look at it)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CurriculumPhase:
    """How candidates are sampled, labelled and chosen."""

    candidates: int
    sampling: Mapping[str, Any]
    parse: Callable[[str], Question | None]
    polling: Polling
    rule: Curriculum

    def __post_init__(self) -> None:
        if self.candidates < 1:
            raise ValueError(f"curriculum.candidates must be at least 1, got {self.candidates}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SolverPhase:
    """How a Solver is trained."""

    settings: GRPOSettings
    loss: Any
    optimizer: Callable[..., Any]
    reward: Callable[[int], SolverReward]
    label: Callable[[LabelledQuestion], str] = voted_label
    """What a question's responses are compared with."""


@dataclass(slots=True, kw_only=True)
class SelfPlay:
    """A run: the parts of the method, a directory, and a seed.

    `base` is where S_0 and Q_0 come from; `load` makes a policy of a path. `make_engine` is called twice: the learning
    policy and the frozen Solver are sampled in the same step. `audit` measures questions from outside and returns
    numbers for the tracker; nothing it says is kept for training. `health` watches the grader, `collapse` the metrics.
    `roles` says whose weights a role starts from in a round. `launch` is entered for the whole run and says which of
    several processes this one is: all of them run the same loop, and only the first writes. checkpoint_every: steps
    between checkpoints inside a phase; 0: none, a stopped phase starts again.
    """

    directory: Path
    seed: int
    iterations: int
    base: str
    load: Callable[[str], Policy]
    make_engine: Callable[[], RolloutEngine]
    make_trainer: Callable[..., Any]
    prompts: Prompts
    challenger: ChallengerPhase
    curriculum: CurriculumPhase
    solver: SolverPhase
    suite: Any
    audit: QuestionAudit
    bank: JsonlBank
    ledger: Ledger
    tracker: Any
    record: Any
    narrator: Narrator
    save_scores: Callable[[Path, Any], None]
    health: GraderHealth
    collapse: CollapseMonitor
    roles: Roles = TWO_MODELS
    launch: Callable[[], AbstractContextManager[Ranks]] = alone
    checkpoint_every: int = 0

    def run(self) -> None:
        """Everything that is not done yet.

        Raises NothingKept when a round leaves the Solver without questions, NothingLearned when a phase had no usable
        update, Collapsed when the monitor was told to stop at its signs.
        """
        if self.iterations < 1:
            raise ValueError(f"iterations must be at least 1, got {self.iterations}")
        with self.launch() as self.ranks:
            self.learning, self.frozen = (across(self.make_engine(), self.ranks) for _ in range(2))
            try:
                self._stage("evaluation", 0, self.evaluate)
                for iteration in range(1, self.iterations + 1):
                    self._stage("challenger", iteration, self.fit_challenger)
                    self._stage("questions", iteration, self.build_curriculum)
                    self._stage("solver", iteration, self.fit_solver)
                    self._stage("evaluation", iteration, self.evaluate)
            finally:
                self.learning.close()
                self.frozen.close()

    ranks: Ranks = Ranks()  # noqa: RUF009 - frozen
    learning: RolloutEngine = None  # type: ignore[assignment]
    frozen: RolloutEngine = None  # type: ignore[assignment]

    # -------------------------------------------------------------------------------------------------------- stages

    def fit_challenger(self, iteration: int) -> str:
        """Q_i from its predecessor, against the frozen S_{i-1}. With zero steps the Challenger stays untrained."""
        phase, seed = self.challenger, derive(self.seed, iteration, "challenger")
        if phase.settings.steps == 0:
            self._title(iteration, "Challenger", 1)
            return "not trained (steps=0)"
        self._title(iteration, "Challenger", phase.settings.steps)
        self.frozen.sync(self.load(self._weights("solver", iteration - 1)))
        policy = self.load(self._start("challenger", iteration))
        module = Challenger(
            request=self.prompts.challenger(),
            parse=phase.parse,
            ask_solver=lambda questions, step: self.poll(phase.polling, questions, derive(seed, "votes", step)),
            reward=self.ranks.shared(phase.reward(seed)),
            policy=policy,
            reference=reference_of(policy) if phase.loss.needs_reference else None,
            engine=self.learning,
            settings=phase.settings,
            loss=phase.loss,
            optimizer=phase.optimizer,
            batches=range(phase.settings.steps),
            seed=seed,
            ranks=self.ranks,
        )
        made_of = self._origin(*self.roles.predecessor("challenger", iteration)), self._origin("solver", iteration - 1)
        return self._train(module, iteration, made_of=made_of)

    def build_curriculum(self, iteration: int) -> str:
        """D_i: candidates of Q_i, labelled by S_{i-1}, every one of them kept or dropped for a reason."""
        phase, seed = self.curriculum, derive(self.seed, iteration, "questions")
        self._title(iteration, "questions", 3)
        self.learning.sync(self.load(self._weights("challenger", iteration)))
        sampling = Sampling(n=phase.candidates, seed=derive(seed, "candidates"), **phase.sampling)
        [posed] = self.learning.generate([self.prompts.challenger()], sampling)
        self.narrator.advance("posed")
        questions = [phase.parse(completion.text) for completion in posed.completions]
        self.frozen.sync(self.load(self._weights("solver", iteration - 1)))
        votes = self.poll(phase.polling, questions, derive(seed, "votes"))
        self.narrator.advance("labelled")
        labelled = self.ranks.shared(phase.rule.select)(questions, votes, iteration=iteration)
        self.ranks.shared(self.bank.put)(iteration, labelled)
        kept = [question for question in labelled if question.kept]
        audited = self.ranks.shared(self.audit)(labelled)
        metrics = curriculum_metrics(labelled)
        self._log(iteration, {**metrics, **audited, **self.health.look()})
        self.tracker.questions(labelled, step=self.ledger.step)
        made_of = self._origin("challenger", iteration), self._origin("solver", iteration - 1)
        bank = self.bank.path(iteration)
        self.tracker.artifact(Artifact(kind="questions", iteration=iteration, path=bank, made_of=made_of))
        self.narrator.advance("chosen")
        if not kept:
            raise NothingKept(_explain_nothing_kept(iteration, labelled))
        self.collapse.begin()
        duplicates = 1 - metrics["curriculum/distinct_kept"] / len(kept)
        with suppress(RollBack):  # there are no weights to roll back here: the sign has been said
            self.collapse.look({**metrics, "curriculum/duplicate_share": duplicates}, say=self.narrator.say)
        if len(kept) < self.solver.settings.prompts_per_step:
            self.narrator.say(
                f"warning: only {len(kept)} questions kept, fewer than solver.prompts_per_step "
                f"({self.solver.settings.prompts_per_step}); each step sees some of them more than once"
            )
        return f"kept {len(kept)} of {len(labelled)}"

    def fit_solver(self, iteration: int) -> str:
        """S_i from its predecessor on the kept questions and their labels."""
        phase, seed = self.solver, derive(self.seed, iteration, "solver")
        if phase.settings.steps == 0:
            self._title(iteration, "Solver", 1)
            return "not trained (steps=0)"
        kept = [question for question in self.bank.get(iteration) if question.kept]
        self._title(iteration, "Solver", phase.settings.steps)
        policy = self.load(self._start("solver", iteration))
        module = Solver(
            ask=self.prompts.solver,
            reward=self.ranks.shared(phase.reward(seed)),
            label=phase.label,
            policy=policy,
            reference=reference_of(policy) if phase.loss.needs_reference else None,
            engine=self.learning,
            settings=phase.settings,
            loss=phase.loss,
            optimizer=phase.optimizer,
            batches=question_batches(
                kept, steps=phase.settings.steps, size=phase.settings.prompts_per_step, seed=derive(seed, "order")
            ),
            seed=seed,
            ranks=self.ranks,
        )
        made_of = f"questions_{iteration}", self._origin(*self.roles.predecessor("solver", iteration))
        return self._train(module, iteration, made_of=made_of)

    def evaluate(self, iteration: int) -> str:
        """S_i under the protocol; iteration 0 is the base model."""
        self._title(iteration, "evaluation", len(self.suite.benchmarks))
        self.frozen.sync(self.load(self._weights("solver", iteration)))
        scores = self.suite.evaluate(self.frozen, progress=lambda done, total: self.narrator.advance())
        self.ranks.shared(self.save_scores)(self._path(iteration, "evaluation.json"), scores)
        self._log(iteration, {**scores.metrics(), **self.health.look()})
        return f"overall {scores.overall:.2f}"

    # ------------------------------------------------------------------------------------------------------- machinery

    def poll(self, polling: Polling, questions: Sequence[Question | None], seed: int) -> list[Vote | None]:
        """The frozen Solver's vote on each question; None where there is no question."""
        asked = [index for index, question in enumerate(questions) if question is not None]
        votes: list[Vote | None] = [None] * len(questions)
        if asked:
            prompts = [self.prompts.solver(questions[index].text) for index in asked]  # type: ignore[union-attr]
            groups = self.frozen.generate(prompts, Sampling(n=polling.votes, seed=seed, **polling.sampling))
            texts = [[completion.text for completion in group.completions] for group in groups]
            for index, vote in zip(asked, self.ranks.shared(polling.rule)(texts), strict=True):
                votes[index] = vote
        return votes

    def _stage(self, kind: str, iteration: int, work: Callable[[int], str]) -> None:
        name = f"{iteration}/{kind}"
        if self.ledger.done(name):
            return
        started = time.monotonic()
        summary = work(iteration)
        seconds = time.monotonic() - started
        self.ranks.shared(self._commit)(name, {"summary": summary, "seconds": round(seconds, 3)})
        self.narrator.end(summary)
        if warning := self.health.take_warning():
            self.narrator.say(warning)

    def _commit(self, name: str, result: dict[str, Any]) -> None:
        written = self._written(name)
        files = fingerprints([written], root=self.directory) if written.exists() else {}
        self.ledger.complete(name, result, files=files, metrics=self.record.position())
        shutil.rmtree(self.directory / CHECKPOINTS, ignore_errors=True)

    def _written(self, name: str) -> Path:
        """What a stage leaves on disk besides metrics; a role that was not trained leaves nothing."""
        iteration, kind = name.split("/")
        if kind == "questions":
            return self.bank.path(int(iteration))
        return self._path(int(iteration), "evaluation.json" if kind == "evaluation" else kind)

    def _train(self, module: GRPOModule, iteration: int, *, made_of: tuple[str, ...]) -> str:
        """A phase from its start or its checkpoint to the weights that it leaves on disk; `made_of`: their lineage."""
        try:
            learned = self._fit(module, iteration)
        except RollBack as sign:
            return f"rolled back to the weights before this phase: {sign}"
        if not learned["finite updates"]:
            raise NothingLearned(
                f"iteration {iteration}: no update of the {module.stage} had a finite gradient, so it learned nothing. "
                f"Lower {module.stage}.optimizer.lr or look at its rewards, and start a new run."
            )
        path = self._path(iteration, module.stage)
        module.policy.save(path, write=self.ranks.first)
        self.tracker.artifact(Artifact(kind=module.stage, iteration=iteration, path=path, made_of=made_of))
        if not learned["different rewards"]:
            self.narrator.say(
                f"warning: no group of the {module.stage} had different rewards in any step: "
                "there was nothing to tell good from bad by"
            )
        return f"reward {module.step_metrics[f'{module.stage}/reward']:.3f}"

    def _fit(self, module: GRPOModule, iteration: int) -> dict[str, int]:
        """Trains; in how many steps there was a finite update, and different rewards within a group."""
        needed = checkpoint.space_needed(module.policy, checkpoints=bool(self.checkpoint_every))
        require_space(self.directory, needed, purpose=f"training the {module.stage}")
        stage = f"{iteration}/{module.stage}"
        paused = self.ledger.paused(stage) or {}
        learned = dict(paused.get("learned", {"finite updates": 0, "different rewards": 0}))
        self.collapse.begin(paused.get("streaks"))
        if paused:
            self._go_on(module, paused)

        def after_step(metrics: Mapping[str, float]) -> None:
            self._log(iteration, metrics)
            self.narrator.advance(
                f"reward {metrics[f'{module.stage}/reward']:.3f}  "
                f"length {metrics[f'{module.stage}/completions/mean_length']:.0f}"
            )
            learned["finite updates"] += metrics[f"{module.stage}/skipped_steps"] < 1
            learned["different rewards"] += metrics[f"{module.stage}/frac_reward_zero_std"] < 1
            self.collapse.look(metrics, say=self.narrator.say)
            done = module.rollouts_done
            if self.checkpoint_every and done % self.checkpoint_every == 0 and done < len(module.batches):
                self._pause(module, stage, {"learned": learned, "streaks": self.collapse.streaks})

        fit(module, make_trainer=self.make_trainer, after_step=after_step, directory=self.directory)
        return learned

    def _pause(self, module: GRPOModule, stage: str, memory: Mapping[str, Any]) -> None:
        """A checkpoint inside a phase."""
        path = self.directory / CHECKPOINTS / f"{stage.replace('/', '_')}_{module.rollouts_done}"
        optimizer = module.optimizers(use_pl_optimizer=False)
        checkpoint.save(path, model=module.model, optimizer=optimizer, write=self.ranks.first)  # type: ignore[arg-type]
        self.ranks.shared(self._commit_pause)(stage, path, {"rollouts": module.rollouts_done, **memory})

    def _commit_pause(self, stage: str, path: Path, result: Mapping[str, Any]) -> None:
        files, place = fingerprints([path], root=self.directory), path.relative_to(self.directory).as_posix()
        self.ledger.pause(stage, {**result, "path": place}, files=files, metrics=self.record.position())
        for other in path.parent.iterdir():
            if other != path:
                shutil.rmtree(other)

    def _go_on(self, module: GRPOModule, paused: Mapping[str, Any]) -> None:
        path = self.directory / paused["path"]
        checkpoint.load_weights(path, module.model)
        module.rollouts_done = paused["rollouts"]
        module.restore_optimizer = functools.partial(checkpoint.load_optimizer, path)
        self.narrator.advance(f"going on after step {module.rollouts_done}", module.rollouts_done)

    def _log(self, iteration: int, metrics: Mapping[str, float]) -> None:
        self.ledger.step += 1
        self.tracker.log({"iteration": float(iteration), **metrics}, step=self.ledger.step)

    def _title(self, iteration: int, phase: str, total: int) -> None:
        name = f"iteration {iteration}/{self.iterations}" if iteration else "base model"
        self.narrator.begin(f"{name} · {phase}", total)

    def _path(self, iteration: int, name: str) -> Path:
        return self.directory / f"iteration_{iteration}" / name

    def _weights(self, role: Role, iteration: int) -> str:
        """Where the role's weights after `iteration` are: a role that was not trained has those it started from."""
        trained = self._trained(role, iteration)
        return str(self._path(trained[1], trained[0])) if trained else self.base

    def _origin(self, role: Role, iteration: int) -> str:
        """The same weights as the name of an artifact."""
        trained = self._trained(role, iteration)
        return f"{trained[0]}_{trained[1]}" if trained else "base"

    def _trained(self, role: Role, iteration: int) -> tuple[Role, int] | None:
        """Which role's training, of which round, the weights of `role` after `iteration` come from; None: the base."""
        while iteration > 0 and not self._path(iteration, role).is_dir():
            role, iteration = self.roles.predecessor(role, iteration)
        return (role, iteration) if iteration > 0 else None

    def _start(self, role: Role, iteration: int) -> str:
        return self._weights(*self.roles.predecessor(role, iteration))


def curriculum_metrics(labelled: Sequence[LabelledQuestion]) -> dict[str, float]:
    """What became of the candidates, reason by reason."""
    kept = [question for question in labelled if question.kept]
    reasons = Counter(question.drop_reason for question in labelled if question.drop_reason)
    voted = [question.vote.agreement for question in labelled if question.vote]
    return {
        "curriculum/candidates": float(len(labelled)),
        "curriculum/kept": float(len(kept)),
        "curriculum/kept_fraction": len(kept) / len(labelled),
        "curriculum/distinct_kept": float(len({question.question for question in kept})),
        "curriculum/agreement": sum(voted) / len(voted) if voted else 0.0,
        **{f"curriculum/dropped/{reason}": float(count) for reason, count in sorted(reasons.items())},
    }


def _explain_nothing_kept(iteration: int, labelled: Sequence[LabelledQuestion]) -> str:
    reasons = Counter(question.drop_reason for question in labelled)
    listing = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
    return (
        f"iteration {iteration}: none of {len(labelled)} candidate questions was kept ({listing}). "
        "Widen the band (curriculum.rule), sample more candidates (curriculum.candidates), or train the Challenger "
        "for more steps (challenger.settings.steps), then resume the run."
    )
