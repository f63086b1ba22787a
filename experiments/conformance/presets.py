"""The objects under test, built from the same files in conf/ as a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import OmegaConf

CONF = Path(__file__).resolve().parents[2] / "conf"


def preset(name: str, **runtime: Any) -> Any:
    """Build `conf/<name>.yaml`, a file without a defaults list; call it with `runtime` where it is `_partial_`.

    Repetition is the paper's, as in every preset that there is a record of.
    """
    published = OmegaConf.load(CONF / "repetition" / "paper.yaml")
    cfg = OmegaConf.create({"repetition": published, "preset": OmegaConf.load(CONF / f"{name}.yaml")})
    built = instantiate(cfg.preset, _convert_="all")
    return built(**runtime) if runtime else built


def official_rule() -> Any:
    """The rule of `conf/curriculum/official.yaml`; the rest of that file names the vote and the sampling."""
    return instantiate(OmegaConf.select(OmegaConf.load(CONF / "curriculum" / "official.yaml"), "rule"), _convert_="all")
