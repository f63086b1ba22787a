"""The objects under test, built from the same files in conf/ as a run."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

CONF = Path(__file__).resolve().parents[2] / "conf"


def preset(name: str, **runtime: object) -> Any:
    """Build `conf/<name>.yaml`; call it with `runtime` where it is `_partial_`. Repetition is the published one."""
    built = instantiate(_composed(name), _convert_="all")
    return built(**runtime) if runtime else built


@cache
def _composed(name: str) -> Any:
    """The file with what its own defaults list adds; composed once, as rows ask for the same few presets."""
    group, _, option = name.rpartition("/")
    with initialize_config_dir(str(CONF), version_base=None):
        composed = compose(overrides=[f"+{group}={option}", "+repetition=paper"])
    return OmegaConf.select(composed, group.replace("/", "."))
