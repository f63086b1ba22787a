"""The models of each scale, and the treatments they are given. Their pairs are the arms of the store."""

from __future__ import annotations

from dataclasses import dataclass

from experiments import PROJECT
from experiments.runs import Arm


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A base model with its recipe. `folder` names its runs in the store."""

    name: str
    folder: str
    overrides: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Treatment:
    """The difference of a run from R-Zero on the same model. after: the treatment whose last Solver it starts from."""

    name: str
    folder: str = ""
    overrides: tuple[str, ...] = ()
    after: Treatment | None = None


RZERO = Treatment(name="R-Zero")
UNTRAINED = Treatment(
    name="untrained Challenger", folder="untrained_challenger", overrides=("variant=untrained_challenger",)
)
FORMAT = Treatment(name="format reward", folder="format_reward", overrides=("variant=format_reward",))
RANDOM = Treatment(name="random reward", folder="random_reward", overrides=("variant=random_reward",))
NO_REPETITION = Treatment(name="no repetition penalty", folder="no_repetition", overrides=("variant=no_repetition",))
NO_FILTERING = Treatment(name="no filtering", folder="no_filtering", overrides=("variant=no_filtering",))
SHARED = Treatment(name="one model, two roles", folder="shared", overrides=("roles=shared",))
TEN_ITERATIONS = Treatment(
    name="R-Zero, ten rounds",
    folder="ten_rounds",
    overrides=(
        "iterations=10",
        "challenger.settings.share_prompts=true",  # the same update, only faster
        "solver.settings.share_prompts=true",
    ),
)
LABELLED = Treatment(name="labelled training of the base", folder="labelled", overrides=("variant=labelled",))
LABELLED_AFTER = Treatment(
    name="labelled training after R-Zero", folder="labelled_after", overrides=("variant=labelled",), after=RZERO
)

MICRO = Model(name="micro", folder="micro", overrides=("experiment=micro",))
PAPER = tuple(
    Model(name=name, folder=f"paper_{folder}", overrides=("experiment=paper", f"policy={policy}"))
    for name, folder, policy in (
        ("Qwen3-4B-Base", "qwen3_4b", "qwen3_4b_base"),
        ("Qwen3-8B-Base", "qwen3_8b", "qwen3_8b_base"),
        ("OctoThinker-3B", "octothinker_3b", "octothinker_3b"),
        ("OctoThinker-8B", "octothinker_8b", "octothinker_8b"),
    )
)


def micro_sizes() -> tuple[Model, ...]:
    """Every size of the micro base model that there is: conf/policy/micro.yaml and conf/policy/micro_<size>.yaml."""
    others = sorted(path.stem for path in (PROJECT / "conf" / "policy").glob("micro_*.yaml"))
    return MICRO, *(Model(name=name, folder=name, overrides=("experiment=micro", f"policy={name}")) for name in others)


def arm_of(model: Model, treatment: Treatment) -> Arm:
    return Arm(
        folder="_".join(filter(None, (model.folder, treatment.folder))),
        overrides=(*model.overrides, *treatment.overrides),
        after=arm_of(model, treatment.after) if treatment.after else None,
    )
