"""A phase of training as a stage of a run: from its start or its last checkpoint to the weights on disk."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import TypeAlias

import lightning.pytorch as pl

from rzero.collapse import RollBack
from rzero.durable import require_space
from rzero.modules import GRPOModule, checkpoint
from rzero.modules.fit import fit
from rzero.runs.stages import Stages
from rzero.types import Json

MakeTrainer: TypeAlias = Callable[..., pl.Trainer]
"""Returns a new Trainer with the given keyword arguments besides the configured ones."""


def nothing_against() -> str:
    """Returns nothing: whatever was trained goes on."""
    return ""


class NothingLearned(RuntimeError):
    """Not one update of a phase had a finite gradient: its weights are those it started from."""


def train(
    module: GRPOModule,
    *,
    stages: Stages,
    make_trainer: MakeTrainer,
    made_of: tuple[str, ...],
    against: Callable[[], str] = nothing_against,
) -> str:
    """Trains a role and saves its weights; returns a summary. `made_of`: the artifacts that they come from.

    against: called when they are trained, says what speaks against them; they are not saved then, and the role keeps
    those before the phase.

    Raises NothingLearned when there was no usable update, Collapsed when the monitor was told to stop at its signs.
    """
    try:
        learned = _fit(module, stages=stages, make_trainer=make_trainer)
    except RollBack as sign:
        return f"rolled back to the weights before this phase: {sign}"
    if not learned["finite updates"]:
        raise NothingLearned(
            f"iteration {stages.iteration}: no update of the {module.stage} had a finite gradient, so it learned "
            f"nothing. Lower {module.stage}.optimizer.lr or look at its rewards, and start a new run."
        )
    if reason := against():
        return f"given up for the weights before this phase: {reason}"
    stages.watch("saving weights")
    module.policy.save(stages.output, write=stages.ranks.first)
    stages.made(module.stage, made_of=made_of)
    if not learned["different rewards"]:
        stages.warn(
            f"no group of the {module.stage} had different rewards in any step: there was nothing to tell good from "
            "bad by"
        )
    return f"reward {module.step_metrics[f'{module.stage}/reward']:.3f}"


def _fit(module: GRPOModule, *, stages: Stages, make_trainer: MakeTrainer) -> dict[str, int]:
    """Returns in how many steps there was a finite update, and different rewards within a group."""
    needed = checkpoint.space_needed(module.policy, checkpoints=bool(stages.checkpoint_every))
    require_space(stages.directory.path, needed, purpose=f"training the {module.stage}")
    paused = stages.paused()
    learned: dict[str, int] = {**paused.get("learned", {"finite updates": 0, "different rewards": 0})}
    stages.collapse.begin(paused.get("streaks"))
    if paused:
        _resume(module, paused, stages=stages)

    def after_step(metrics: Mapping[str, float]) -> None:
        stages.log(metrics)
        stages.advance(
            f"reward {metrics[f'{module.stage}/reward']:.3f}  "
            f"length {metrics[f'{module.stage}/completions/mean_length']:.0f}"
        )
        learned["finite updates"] += metrics[f"{module.stage}/skipped_steps"] < 1
        learned["different rewards"] += metrics[f"{module.stage}/frac_reward_zero_std"] < 1
        stages.collapse.look(metrics, say=stages.narrator.say)
        if stages.checkpoint_due(module.rollouts_done, of=len(module.batches)):
            _pause(module, {"learned": learned, "streaks": stages.collapse.streaks}, stages=stages)

    fit(module, make_trainer=make_trainer, after_step=after_step, directory=stages.directory.path)
    return learned


def _pause(module: GRPOModule, memory: Json, *, stages: Stages) -> None:
    stages.watch("saving a checkpoint")
    path = stages.checkpoint_path(module.rollouts_done)
    optimizer = module.optimizers(use_pl_optimizer=False)
    checkpoint.save(path, model=module.model, optimizer=optimizer, write=stages.ranks.first)  # type: ignore[arg-type]
    stages.pause(path, {"rollouts": module.rollouts_done, **memory})


def _resume(module: GRPOModule, paused: Json, *, stages: Stages) -> None:
    checkpoint.load_weights(paused["path"], module.model)
    module.rollouts_done = paused["rollouts"]
    module.restore_optimizer = functools.partial(checkpoint.load_optimizer, paused["path"])
    stages.advance(f"going on after step {module.rollouts_done}", module.rollouts_done)
