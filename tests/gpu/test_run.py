"""A whole run on a GPU, shrunk to seconds, as its command starts it."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from rzero.tracking import read_metrics

PROJECT = Path(__file__).resolve().parents[2]
RUNS = {
    "embedded": ["experiment=shrunk", "iterations=1", "trainer=gpu"],
    "vllm": ["experiment=shrunk", "iterations=1", "trainer=gpu", "engine=vllm_gpu", "engine.max_model_len=null"],
}
"""Overrides by engine; `tests/test_gpu_tests.py` composes them."""
NEEDED = {"embedded": ("hydra", "math_verify"), "vllm": ("hydra", "math_verify", "vllm")}


@pytest.mark.gpu
@pytest.mark.parametrize("engine", sorted(RUNS))
def test_a_run_ends_with_scores(engine: str, tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU: torch.cuda.is_available() is False")
    if missing := [name for name in NEEDED[engine] if find_spec(name) is None]:
        pytest.skip(f"a run with this engine needs {', '.join(missing)}, which is not installed")
    command = [sys.executable, "-m", "experiments.run", *RUNS[engine], f"directory={tmp_path / 'run'}"]
    ended = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=240)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    metrics = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert any(row.get("solver/grad_norm", 0.0) > 0 for row in metrics)
