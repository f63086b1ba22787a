"""The arms of the study: R-Zero, what each part adds to it, combinations, and controls that see true answers.

Screening chooses among them on the development split with the tuning seeds; confirmation runs what was chosen on the
test split with seeds that nothing was chosen on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from statistics import fmean

from hydra.utils import instantiate

from experiments.runs import Arm, composed

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Ingredient:
    """A part against the collapse: a rule of the curriculum, a reward of the Challenger, other overrides."""

    rule: str = ""
    reward: str = ""
    others: tuple[str, ...] = ()


INGREDIENTS: Mapping[str, Ingredient] = {
    "coverage": Ingredient(reward="coverage"),
    "coverage_of_kinds": Ingredient(reward="coverage_of_kinds"),
    "semantic_memory": Ingredient(reward="semantic_memory"),
    "governor": Ingredient(reward="governor"),
    "replay": Ingredient(rule="replay"),
    "replay_equal": Ingredient(rule="replay", others=("curriculum.rule.share=1.0",)),
    "balanced": Ingredient(rule="balanced"),
    "balanced_kinds": Ingredient(rule="balanced_kinds"),
    "anchored": Ingredient(rule="anchored", others=("anchors@curriculum=earlier",)),
    "own_answer": Ingredient(rule="own_answer"),
    "confident": Ingredient(rule="confident", reward="confident"),
    "from_solver": Ingredient(others=("roles=challenger_from_solver",)),
    "from_base": Ingredient(others=("roles=challenger_from_base",)),
    "ema": Ingredient(others=("anchors@curriculum=ema",), rule="anchored"),
    "acceptance": Ingredient(others=("acceptance@solver=not_worse",)),
    "vocabulary": Ingredient(others=("vocabulary=dropout",)),
    "novelty": Ingredient(others=("solver_reward@solver.reward=novelty",)),
}
"""By name; where several are rules or rewards, an earlier one wraps a later one."""


def combined(*names: str) -> tuple[str, ...]:
    """Returns the overrides of parts that work together, in whatever order they are named."""
    chosen = [part for name, part in INGREDIENTS.items() if name in names]
    return (
        *(override for part in chosen for override in part.others),
        *rules(*(part.rule for part in chosen if part.rule)),
        *rewards(*(part.reward for part in chosen if part.reward)),
    )


COMBINATIONS: Mapping[str, tuple[str, ...]] = {
    "coverage_replay": ("coverage", "replay"),
    "coverage_confident_replay": ("coverage", "confident", "replay"),
    "coverage_anchored_replay": ("coverage", "anchored", "replay"),
    "coverage_anchored_confident_replay": ("coverage", "anchored", "confident", "replay"),
    "coverage_governor_anchored_replay": ("coverage", "governor", "anchored", "replay"),
    "balanced_coverage_anchored_confident_replay": ("balanced", "coverage", "anchored", "confident", "replay"),
    "kinds_anchored_confident_replay": ("coverage_of_kinds", "anchored", "confident", "replay"),
    "balanced_kinds_anchored_confident_replay": (
        "coverage_of_kinds",
        "balanced_kinds",
        "anchored",
        "confident",
        "replay",
    ),
    "governed_kinds_anchored_confident_replay": (
        "coverage_of_kinds",
        "governor",
        "balanced_kinds",
        "anchored",
        "confident",
        "replay",
    ),
    "coverage_anchored_confident_replay_from_solver": ("from_solver", "coverage", "anchored", "confident", "replay"),
    "coverage_anchored_replay_from_base": ("from_base", "coverage", "anchored", "replay"),
    "coverage_anchored_confident_replay_from_base": ("from_base", "coverage", "anchored", "confident", "replay"),
}
"""The parts of each combination, by its name."""

WINNER = "coverage_anchored_confident_replay_from_base"
"""What is confirmed: chosen by screening, as experiments/LOG.md says. One of COMBINATIONS or of INGREDIENTS."""

MORE_VOTES = "rzero_more_votes"
"""R-Zero with as many more votes as the winner draws more rollouts."""


def parts_of(treatment: str) -> tuple[str, ...]:
    """Returns what a treatment is made of."""
    return COMBINATIONS.get(treatment, (treatment,))


def more_votes(rounds: int) -> str:
    """Returns the override that gives each label as many votes as the winner's own and its anchors' are, in the mean.

    Anchors are all that draws more than R-Zero does.
    """
    config = composed(("experiment=micro", *combined(*parts_of(WINNER))))
    anchors = instantiate(config.curriculum.anchors)
    drawn = fmean(anchors.votes * len(anchors.of(number - 1)) for number in range(1, rounds + 1))
    return f"curriculum.votes={config.curriculum.votes + round(drawn)}"


def without(winner: str) -> dict[str, tuple[str, ...]]:
    """Returns the winner without each of its first four parts; nothing for one of a single part."""
    parts = parts_of(winner)
    left_out = parts[:4] if len(parts) > 1 else ()
    return {f"without_{part}": combined(*(other for other in parts if other != part)) for part in left_out}


SCREENED: Mapping[str, tuple[str, ...]] = {
    # R-Zero, and controls that see true answers
    "rzero": (),
    "gold": ("variant=gold_reward",),
    "labelled": ("variant=labelled",),
    **{name: combined(name) for name in INGREDIENTS},
    **{name: combined(*parts) for name, parts in COMBINATIONS.items()},
}
"""By name, the overrides in which an arm differs from R-Zero."""

TREATMENTS: Mapping[str, tuple[str, ...]] = {**SCREENED, **without(WINNER)}
"""The same with those of the confirmation."""


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
            *((more_votes(self.rounds),) if treatment == MORE_VOTES else TREATMENTS[treatment]),
        )
        return Arm(folder=treatment, overrides=overrides)


SCREEN = Part(
    name="screen", split="dev", policy="micro_small", rounds=10, seeds=(10, 11, 12), treatments=tuple(SCREENED)
)
CONFIRM = Part(
    name="confirm",
    split="test",
    policy="micro_small",
    rounds=10,
    seeds=tuple(range(10)),
    treatments=(
        "rzero",
        WINNER,
        *without(WINNER),
        *([MORE_VOTES] if "anchored" in parts_of(WINNER) else []),
        "labelled",
    ),
)
MEDIUM, MICRO = (
    replace(CONFIRM, name=size, policy=policy, seeds=tuple(range(5)), treatments=("rzero", WINNER))
    for size, policy in (("medium", "micro_medium"), ("micro", "micro"))
)
TWENTY = replace(CONFIRM, name="twenty", rounds=20, seeds=tuple(range(5)), treatments=(WINNER,))

PARTS: Mapping[str, Part] = {part.name: part for part in (SCREEN, CONFIRM, MEDIUM, MICRO, TWENTY)}
"""Any of them can be run, in part or whole, in any order; nothing is chosen on any but the first."""
