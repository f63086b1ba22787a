"""Export: a role's weights as an ordinary directory, whatever the run left."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from experiments.export import main
from rzero.adapters import adapter_weights, holds_adapters
from rzero.gathering import merged_weights
from rzero.policy import load_policy
from tests.experiments.small import config
from tests.tiny_models import build_policy

LORA = {"rank": 2, "alpha": 8, "dropout": 0.0, "target_modules": ["q_proj", "down_proj"]}


@pytest.mark.parametrize("lora", [LORA, None])
def test_the_last_solver_of_a_run_is_written_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], lora: Any
) -> None:
    base, run = tmp_path / "base", tmp_path / "run"
    build_policy("qwen3_tied").save(base)
    (run / "iteration_1").mkdir(parents=True)
    cfg = config(f"policy.path_or_id={base}")
    cfg.policy.lora = lora
    OmegaConf.save(cfg, run / "config.yaml")
    assert main([str(run)]) == 2
    assert "the solver of iteration 1 has the weights of" in capsys.readouterr().err
    policy = load_policy(base, dtype="float32", attn_implementation="sdpa", lora=lora)
    for name, tensor in adapter_weights(policy.model).items():
        tensor.fill_(0.1 if "lora_A" in name else 0.2)
    policy.save(run / "iteration_1" / "solver")
    assert holds_adapters(run / "iteration_1" / "solver") == (lora is not None)

    assert main([str(run)]) == 0
    assert str(run / "exported" / "solver_1") in capsys.readouterr().out.replace("\n", "")
    written = AutoModelForCausalLM.from_pretrained(run / "exported" / "solver_1").state_dict()
    for name, tensor in merged_weights(policy.model).items():
        torch.testing.assert_close(written[name], tensor)
    assert main([str(run), "--dtype", "bfloat16", "--output", str(tmp_path / "half")]) == 0
    halves = load_file(tmp_path / "half" / "model.safetensors")
    assert {tensor.dtype for tensor in halves.values()} == {torch.bfloat16}

    shutil.rmtree(base)
    assert main([str(run), "--role", "challenger"]) == 2
    assert main([str(tmp_path)]) == 2
    assert "is no run directory" in capsys.readouterr().err
