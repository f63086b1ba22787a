"""The tests of tests/gpu without a GPU: collected and run where only what they need is installed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.compose import compose
from tests.gpu.test_run import RUNS

PROJECT = Path(__file__).resolve().parent.parent
HIDDEN = (
    "peft", "vllm", "hydra", "omegaconf", "math_verify", "latex2sympy2_extended", "wandb", "lm_eval", "datasets",
    "pint", "antlr4", "experiments", "evaluation",
)  # fmt: skip
"""What a machine with torch, transformers, lightning and safetensors need not have, and our packages besides rzero."""
WITHOUT = f"""
import sys


class Without:
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in {HIDDEN} else self.finder.find_spec(name, path, target)


sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]

import pytest

code = pytest.main(sys.argv[1:])
print("imported:", sorted(set({HIDDEN}) & {{name.partition(".")[0] for name in sys.modules}}))
sys.exit(code)
"""


@pytest.mark.slow
def test_they_run_where_only_what_they_need_is_installed() -> None:
    """Without a GPU those that want one say so; the others, of which the suite itself runs all, pass."""
    chosen = ("-k", "rollouts or shape or checkpoints or lora or run", "tests/gpu")
    hidden = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "CUDA_VISIBLE_DEVICES": ""}
    ended = subprocess.run(
        [sys.executable, "-c", WITHOUT, *chosen], cwd=PROJECT, env=hidden, capture_output=True, text=True
    )
    said = ended.stdout + ended.stderr
    assert ended.returncode == 0, said
    assert "imported: []" in said
    assert "needs a GPU: torch.cuda.is_available() is False" in said
    assert "LoRA needs peft, which is not installed" in said
    assert re.search(r"[1-9]\d* passed, [1-9]\d* skipped", said), said


@pytest.mark.parametrize("engine", sorted(RUNS))
def test_the_runs_that_they_start_compose(engine: str) -> None:
    cfg = compose(*RUNS[engine])
    assert cfg.trainer.accelerator == "gpu"
