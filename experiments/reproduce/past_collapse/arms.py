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

REPLAY = ("curriculum/rule=replay",)
FROM_SOLVER = ("roles=challenger_from_solver",)
EASIER = (  # where votes are right more often: the paper pays most, and keeps, around an agreement of one half
    "challenger_reward@challenger.reward=inverted_u",
    "challenger.reward.centre=0.75",
    "challenger.reward.half_width=0.25",
    "curriculum.rule.band.centre=0.7",
    "curriculum.rule.band.half_width=0.2",
)
ANCHORED = ("anchors@curriculum=earlier", "curriculum/rule=anchored")
COVERAGE = ("challenger_reward@challenger.reward=coverage",)

TREATMENTS: Mapping[str, tuple[str, ...]] = {
    "rzero": (),
    "gold": ("variant=gold_reward",),
    "labelled": ("variant=labelled",),
    "replay": REPLAY,
    "from_solver": FROM_SOLVER,
    "easier": EASIER,
    "anchored": ANCHORED,
    "own_answer": ("curriculum/rule=own_answer",),
    "coverage": COVERAGE,
    "balanced": ("curriculum/rule=balanced",),
    "semantic_memory": ("challenger_reward@challenger.reward=semantic_memory",),
    "governor": ("challenger_reward@challenger.reward=governor",),
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
