"""Faults of a command's overrides, each in one line. Old spellings are refused, never translated."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product

from omegaconf.errors import ConfigAttributeError, ConfigKeyError

_POLICIES = {
    "qwen3_4b": "qwen3_4b_base",
    "qwen3_8b": "qwen3_8b_base",
    "octothinker_3b": "octothinker_3b",
    "octothinker_8b": "octothinker_8b",
}

MOVED: Mapping[str, str] = {
    **{
        f"experiment={preset}_{old}": f"experiment={preset} policy={policy}"
        for preset, (old, policy) in product(("paper", "official"), _POLICIES.items())
    },
    "experiment=paper_qwen3_4b_lora_1gpu": "experiment=paper_lora_1gpu",
    "experiment=micro_untrained_challenger": "variant=untrained_challenger",
    "experiment=micro_random_reward": "variant=random_reward",
    "experiment=micro_format_reward": "variant=format_reward",
    "challenger=micro": "challenger=paper scale=micro",
    "challenger=untrained": "training=solver",
    "solver=micro": "solver=paper scale=micro",
    "curriculum=micro": "curriculum=paper scale=micro",
    "curriculum=none": "curriculum/rule=unfiltered",
    "curriculum=labelled_control": "variant=labelled",
    **{f"curriculum={rule}": f"curriculum/rule={rule}" for rule in ("dedup", "quantile", "replay", "stratified")},
    # a choice is spelled with the place that it fills; the Solver's is named, the Challenger has the same ones
    "advantage=*": "advantage@solver.settings.advantage=*",
    "challenger_reward=*": "challenger_reward@challenger.reward=*",
    "label=*": "label@solver.label=*",
    "loss=*": "loss@solver.loss=*",
    "mismatch=*": "mismatch@solver.loss=*",
    "optimizer=*": "optimizer@solver.optimizer=*",
    "overlong=*": "overlong@solver.settings=*",
    "overlong@solver.settings.overlong=*": "overlong@solver.settings=*",
    "overlong@challenger.settings.overlong=*": "overlong@challenger.settings=*",
    "refill=*": "refill@solver.settings=*",
    "refill@solver.settings.refill=*": "refill@solver.settings=*",
    "refill@challenger.settings.refill=*": "refill@challenger.settings=*",
    "rule=*": "curriculum/rule=*",
    "solver_reward=*": "solver_reward@solver.reward=*",
    "transfer=*": "transfer@engine.host.transfer=*",
    "vote=*": "vote@curriculum.vote=*",
    **{f"engine.dtype={dtype}": f"engine=embedded_{dtype}" for dtype in ("int8", "auto")},  # and its correction
    "engine.host.patience.*": "engine.host.timeouts.*",
    "benchmarks=micro_harness": "benchmarks=micro",
    "benchmarks.benchmarks.*": "benchmarks.source.source.*",
    **{f"benchmarks.{key}=*": f"benchmarks.protocol.{key}=*" for key in ("k", "temperature", "max_tokens", "seed")},
}
"""Old override -> new one. `*` stands for any end and is carried over."""

GONE: Mapping[str, str] = {
    "solver.settings.overlong.buffer_tokens": "set buffer_share, a share of response_tokens",
    "challenger.settings.overlong.buffer_tokens": "set buffer_share, a share of response_tokens",
    "solver.reward.group_size": "a reward sees the groups as they are",
}
"""Keys without a successor of the same meaning -> what to do."""

ELSEWHERE: Mapping[str, str] = {"hardware": "experiments.plan", "model_size": "experiments.pretrain"}
"""Groups of conf/ that are choices of another command than `experiments.run`."""


def refuse_old(overrides: Sequence[str], *, allowed: Sequence[str] = ()) -> None:
    """Raises ValueError with the new spelling of the first override that is no longer one.

    allowed: groups of `ELSEWHERE` that the command knows.
    """
    for text in overrides:
        plain = text.lstrip("+~")
        key, _, _ = plain.partition("=")
        if key in ELSEWHERE and key not in allowed:
            raise ValueError(f"{text}: {key} belongs to python -m {ELSEWHERE[key]}")
        if key in GONE:
            raise ValueError(f"{text}: there is no {key} any more; {GONE[key]}")
        for single in _single(plain):
            if new := _today(single):
                raise ValueError(f"{single} is now {new}")


def _single(override: str) -> Iterator[str]:
    """`key=a,b` of a sweep as `key=a` and `key=b`."""
    key, equals, values = override.partition("=")
    yield from (f"{key}={value}" for value in values.split(",")) if equals else (override,)


def _today(override: str) -> str | None:
    if override in MOVED:
        return MOVED[override]
    for old, new in MOVED.items():
        start = old.removesuffix("*")
        if start != old and override.startswith(start):
            return new.replace("*", override.removeprefix(start))
    return None


def one_line(error: BaseException) -> str:
    """Returns what Hydra or OmegaConf found wrong, without search paths; an unknown key with those that are there."""
    cause = error.__cause__ or error
    if isinstance(cause, (ConfigAttributeError, ConfigKeyError)) and cause.parent_node is not None:
        known = ", ".join(str(key) for key in cause.parent_node if not str(key).startswith("_") and key != "hydra")
        parent = str(cause.full_key).rpartition(".")[0] or "the configuration"
        return f"there is no key {cause.full_key}; {parent} has {known}"
    text = str(error).partition("Config search path")[0].partition("Search path:")[0]
    return " ".join(text.split())
