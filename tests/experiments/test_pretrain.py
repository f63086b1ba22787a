"""The micro base models: what is committed is what the configuration describes, and the script makes such models."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from experiments import PROJECT
from experiments.compose import compose
from rzero.policy import load_policy

SIZES = sorted(path.stem for path in (PROJECT / "conf" / "model_size").glob("*.yaml"))


def facts(directory: Path) -> dict[str, str]:
    """The table of a model card."""
    rows = (line.strip("| ").split(" | ") for line in (directory / "README.md").read_text().splitlines())
    return {row[0]: row[1] for row in rows if len(row) == 2}


@pytest.mark.parametrize("size", SIZES)
def test_every_size_is_committed_with_its_policy(size: str) -> None:
    cfg = compose(f"model_size={size}", config="pretrain")
    directory = PROJECT / cfg.output
    saved = json.loads((directory / "config.json").read_text())
    assert {key: saved[key] for key in cfg.model if key != "rope_theta"} == {
        key: value for key, value in cfg.model.items() if key != "rope_theta"
    }
    card = facts(directory)
    assert card["sha256"] == hashlib.sha256((directory / "model.safetensors").read_bytes()).hexdigest()
    assert (card["steps"], card["seed"]) == (str(cfg.steps), str(cfg.seed))
    policy = OmegaConf.load(PROJECT / "conf" / "policy" / f"{cfg.name}.yaml")
    named = OmegaConf.to_container(policy, resolve=False)
    assert isinstance(named, dict)
    assert named["path_or_id"] == "${project:}/" + cfg.output
    loaded = load_policy(directory, dtype="float32", attn_implementation="sdpa")
    assert sum(p.numel() for p in loaded.model.parameters()) == int(card["parameters"])


@pytest.mark.slow
def test_the_script_is_a_pure_function_of_its_configuration(tmp_path: Path) -> None:
    made = []
    for name in ("first", "second"):
        short = ["steps=3", "warmup_steps=2", "tokens_per_step=512", "tokenizer.documents=300", "log_every=1"]
        command = [
            sys.executable,
            "-m",
            "experiments.pretrain",
            "model_size=small",
            *short,
            f"output={tmp_path / name}",
        ]
        done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
        assert "step      3 " in done.stdout
        made.append(load_policy(tmp_path / name, dtype="float32", attn_implementation="sdpa"))
        assert facts(tmp_path / name)["command"].startswith("python -m experiments.pretrain model_size=small steps=3 ")
    assert made[0].weights_hash() == made[1].weights_hash()
    assert made[0].tokenizer.decode(made[0].tokenizer.encode("What is 12 + 7?")) == "What is 12 + 7?"
