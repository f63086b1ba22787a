"""What a phase held is gone when the next stage begins: on a GPU it would lie beside the next phase's weights."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from rzero.policy import Policy
from tests.rzero.tiny_run import LOAD, Suite, execute, reply, tiny_run
from tests.scripted import ScriptedEngine

pytestmark = pytest.mark.usefixtures("quiet_lightning")


def test_no_model_of_an_earlier_phase_is_alive_at_the_next_stage(tmp_path: Path, base: Path) -> None:
    models: list[weakref.ref[nn.Module]] = []
    alive_at_evaluation: list[int] = []

    def load(path: str) -> Policy:
        policy = LOAD(path)
        models.append(weakref.ref(policy.model))
        return policy

    class Forgetful(ScriptedEngine):
        def sync(self, policy: Policy) -> None:
            super().sync(policy)
            self.synced.clear()

    class Counting(Suite):
        def evaluate(self, engine: Any, *, policy: Any = None, progress: Any = None, watch: Any = None) -> Any:
            alive_at_evaluation.append(sum(model() is not None for model in models))
            return super().evaluate(engine, policy=policy, progress=progress)

    gc.disable()  # only what the run itself collects counts
    try:
        execute(tiny_run(tmp_path / "run", base, load=load, suite=Counting(), make_engine=lambda: Forgetful(reply)))
    finally:
        gc.enable()
    assert len(models) >= 5
    assert max(alive_at_evaluation) <= 2  # those that the two engines were given last
