"""Trackers as the configuration names them: told what they need, and nothing that must stay here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import OmegaConf

from experiments import composition
from experiments.provenance import public_config
from experiments.resolvers import group
from rzero.runs.ledger import Ledger, Position
from rzero.tracking import CsvTracker, WandbTracker
from tests.experiments.small import config


def test_a_resumed_run_tells_its_tracker_what_is_complete(tmp_path: Path) -> None:
    ledger = Ledger.open(tmp_path / "state.json")
    ledger.step = 1
    ledger.complete("0/evaluation", {}, files={}, metrics=Position())
    before = CsvTracker(path=tmp_path / "metrics.csv")
    for step in (1, 2):
        before.log({"solver/reward": 0.5}, step=step)
    before.close()
    composition.build(config("grader=exact", "tracker=csv"), tmp_path).close()
    assert [line.split(",")[0] for line in (tmp_path / "metrics.csv").read_text().split("\n")[1:-1]] == ["1"]


class Told(WandbTracker):
    """Keeps what the composition root hands over."""

    def __init__(
        self, *, project: str, mode: str, directory: str, name: str, group: str, artifacts: list[str], config: Any
    ) -> None:
        self.place, self.config = (name, group, directory), config

    def close(self) -> None: ...


def test_wandb_gets_the_configuration_without_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    cfg = config("grader=exact", "tracker=wandb", "seed=4", "+hub.hf_token=hf_abc", "+hub.place=${oc.env:HOME}")
    cfg.tracker._target_ = f"{__name__}.Told"
    tracker = composition.build(cfg, tmp_path).stages.tracker
    told = tracker.trackers[1]
    tracker.close()
    assert told.place == ("micro_seed4", "micro", str(tmp_path))
    assert "hf_abc" not in json.dumps(told.config)
    assert "/home/somebody" not in json.dumps(told.config)
    assert told.config["seed"] == 4
    assert told.config["response_tokens"] == cfg.response_tokens


def test_secrets_are_withheld_at_any_depth() -> None:
    cfg = OmegaConf.create(
        {"a": [{"api_key": "x"}], "PASSWORD": "x", "max_tokens": 5, "token": None, "tokens": "shown"}
    )
    withheld = {"a": [{"api_key": "(withheld)"}], "PASSWORD": "(withheld)", "max_tokens": 5, "token": None}
    assert public_config(cfg) == withheld | {"tokens": "shown"}


def test_the_runs_of_a_sweep_share_a_group(monkeypatch: pytest.MonkeyPatch) -> None:
    assert group("micro") == "micro"
    job = OmegaConf.create(
        {
            "mode": RunMode.MULTIRUN,
            "runtime": {"choices": {"sweeps": "band"}},
            "sweep": {"dir": "multirun/micro/2026-11-25"},
        }
    )
    monkeypatch.setattr(HydraConfig, "initialized", lambda: True)
    monkeypatch.setattr(HydraConfig, "get", lambda: job)
    assert group("micro") == "band_2026-11-25"
    job.runtime.choices.sweeps = None
    assert group("micro") == "micro_2026-11-25"
    job.mode = RunMode.RUN
    assert group("micro") == "micro"
