"""The arms of the study: R-Zero, what each part adds to it, combinations, and controls that see true answers.

Screening chooses among them on the development split with the tuning seeds; confirmation runs what was chosen on the
test split with seeds that nothing was chosen on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from experiments.runs import Arm

COMMON = (
    "challenger.settings.share_prompts=true",  # the same update, only faster
    "solver.settings.share_prompts=true",
    "signals=all",
)


def rules(*names: str) -> tuple[str, ...]:
    """Returns the overrides of a stack of curriculum rules, the outermost first; the innermost wraps the paper's."""
    return _stack("curriculum/rule", "curriculum.rule", "rule", names)


def rewards(*names: str) -> tuple[str, ...]:
    """Returns the overrides of a stack of Challenger rewards, the outermost first."""
    return _stack("challenger_reward", "challenger.reward", "reward", names)


def _stack(group: str, package: str, inner: str, names: tuple[str, ...]) -> tuple[str, ...]:
    slots = [f"{package}{f'.{inner}' * depth}" for depth in range(len(names))]
    usual = group.replace("/", ".")
    return tuple(
        f"{group}={name}" if slot == usual else f"{group}@{slot}={name}"
        for slot, name in zip(slots, names, strict=True)
    )


ANCHORS = ("anchors@curriculum=earlier",)
FROM_SOLVER = ("roles=challenger_from_solver",)

TREATMENTS: Mapping[str, tuple[str, ...]] = {
    # R-Zero, and controls that see true answers
    "rzero": (),
    "gold": ("variant=gold_reward",),
    "labelled": ("variant=labelled",),
    # single parts
    "replay": rules("replay"),
    "replay_equal": (*rules("replay"), "curriculum.rule.share=1.0"),
    "from_solver": FROM_SOLVER,
    "confident": (*rules("confident"), *rewards("confident")),
    "anchored": (*ANCHORS, *rules("anchored")),
    "own_answer": rules("own_answer"),
    "balanced": rules("balanced"),
    "coverage": rewards("coverage"),
    "semantic_memory": rewards("semantic_memory"),
    "governor": rewards("governor"),
    # combinations
    "coverage_replay": (*rules("replay"), *rewards("coverage")),
    "coverage_confident_replay": (*rules("replay", "confident"), *rewards("coverage", "confident")),
    "coverage_anchored_replay": (*ANCHORS, *rules("replay", "anchored"), *rewards("coverage")),
    "coverage_anchored_confident_replay": (
        *ANCHORS,
        *rules("replay", "anchored", "confident"),
        *rewards("coverage", "confident"),
    ),
    "coverage_governor_anchored_replay": (
        *ANCHORS,
        *rules("replay", "anchored"),
        *rewards("coverage", "governor"),
    ),
    "balanced_coverage_anchored_confident_replay": (
        *ANCHORS,
        *rules("replay", "balanced", "anchored", "confident"),
        *rewards("coverage", "confident"),
    ),
    "coverage_anchored_confident_replay_from_solver": (
        *ANCHORS,
        *FROM_SOLVER,
        *rules("replay", "anchored", "confident"),
        *rewards("coverage", "confident"),
    ),
    # more single parts
    "ema": ("anchors@curriculum=ema", *rules("anchored")),
    "acceptance": ("acceptance@solver=not_worse",),
    "vocabulary": ("vocabulary=dropout",),
    "novelty": ("solver_reward@solver.reward=novelty",),
}
"""By name, the overrides in which an arm differs from R-Zero."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part of the study: its name, split, size of the model, rounds and seeds, and which treatments it runs."""

    name: str
    split: str
    policy: str
    rounds: int
    seeds: tuple[int, ...]
    treatments: tuple[str, ...]

    def arm(self, treatment: str) -> Arm:
        """Returns the arm of a treatment, as the store keeps it."""
        overrides = (
            "experiment=micro",
            f"policy={self.policy}",
            f"iterations={self.rounds}",
            f"benchmarks.source.source.split={self.split}",
            *COMMON,
            *TREATMENTS[treatment],
        )
        return Arm(folder=treatment, overrides=overrides)


SCREEN = Part(
    name="screen", split="dev", policy="micro_small", rounds=10, seeds=(10, 11, 12), treatments=tuple(TREATMENTS)
)
PARTS: Mapping[str, Part] = {part.name: part for part in (SCREEN,)}
