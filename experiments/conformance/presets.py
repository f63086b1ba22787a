"""The objects under test, built from the same files in conf/ as a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

CONF = Path(__file__).resolve().parents[2] / "conf"


def preset(name: str, **runtime: object) -> Any:
    """Build `conf/<name>.yaml`; call it with `runtime` where it is `_partial_`. Repetition is the published one."""
    with initialize_config_dir(str(CONF), version_base=None):
        composed = compose(name, overrides=["+repetition=paper"])
    built = instantiate(OmegaConf.select(composed, name.rpartition("/")[0].replace("/", ".")), _convert_="all")
    return built(**runtime) if runtime else built
