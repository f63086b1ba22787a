"""Adapters across phases: saved alone, loaded over the same base bit for bit, merged only where that is asked for."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from rzero.adapters import adapter_weights, base_of, holds_adapters
from rzero.gathering import merged_weights
from rzero.policy import Policy, load_policy
from rzero.roles import Role
from rzero.runs.directory import RunDirectory
from rzero.runs.weights import Weights
from tests.rzero.tiny_run import execute, tiny_run

LORA = {"rank": 2, "alpha": 8, "dropout": 0.0, "target_modules": ["q_proj", "down_proj"]}
IDS = torch.arange(12)[None]
load = functools.partial(load_policy, dtype="float32", attn_implementation="sdpa")


@pytest.fixture
def base(make_policy: Callable[..., Policy], tmp_path: Path) -> Path:
    make_policy("qwen3_tied").save(tmp_path / "base")
    return tmp_path / "base"


def shake(policy: Policy, *, scale: float = 1.0) -> None:
    generator = torch.Generator().manual_seed(1)
    for name, tensor in adapter_weights(policy.model).items():
        if "lora_B" in name:
            tensor.normal_(std=scale, generator=generator)


def logits(policy: Policy) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = policy.model.eval()(input_ids=IDS).logits
        return found


def run_of(path: Path, base: Path, **options: Any) -> Weights:
    return Weights(base=str(base), make=functools.partial(load, lora=LORA, **options), directory=RunDirectory(path))


def test_in_bf16_nothing_of_a_small_delta_is_lost_between_phases(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Merged into weights on the grid of bf16, most of it would be rounded away."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # bf16 is refused on CPUs for its speed only
    weights = run_of(tmp_path, base, dtype="bfloat16")
    trained = weights.load_start("solver", 1)
    assert trained.model.dtype == torch.bfloat16
    shake(trained, scale=1e-4)
    trained.save(tmp_path / "iteration_1" / "solver")
    loaded = weights.load_start("solver", 2)
    before, after = adapter_weights(trained.model), adapter_weights(loaded.model)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(logits(loaded), logits(trained))
    start = merged_weights(load(base, dtype="bfloat16").model)
    for name, tensor in loaded.model.state_dict().items():
        if ".lora_" not in name:
            plain = name.removeprefix("base_model.model.").replace(".base_layer.", ".")
            assert torch.equal(tensor, start[plain]), "the base is the base"


def test_a_phase_leaves_its_adapters_alone_and_transformers_reads_them(base: Path, tmp_path: Path) -> None:
    policy = load(base, lora=LORA)
    shake(policy)
    saved = tmp_path / "saved"
    policy.save(saved)
    assert holds_adapters(saved)
    assert base_of(saved) == str(base)
    assert not holds_adapters(base)
    assert not (saved / "model.safetensors").exists()
    assert sum(path.stat().st_size for path in saved.glob("*.safetensors")) < 0.3 * policy.size()
    ours = AutoModelForCausalLM.from_pretrained(saved)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(input_ids=IDS).logits, logits(policy), atol=1e-5, rtol=1e-5)
    policy.save(tmp_path / "again")
    assert (saved / "adapter_config.json").read_bytes() == (tmp_path / "again" / "adapter_config.json").read_bytes()


def test_a_directory_of_adapters_is_a_policy_like_any_other(base: Path, tmp_path: Path) -> None:
    """Evaluated, trained in full, or with fresh adapters on top, whose base it is then."""
    policy = load(base, lora=LORA)
    shake(policy)
    policy.save(tmp_path / "first")
    plain = load(tmp_path / "first")
    torch.testing.assert_close(logits(plain), logits(policy), atol=1e-5, rtol=1e-5)
    assert all(parameter.requires_grad for parameter in plain.model.parameters())
    on_top = load(tmp_path / "first", lora=LORA)
    assert torch.equal(logits(on_top), logits(plain))
    shake(on_top)
    on_top.save(tmp_path / "second")
    assert base_of(tmp_path / "second") == str(tmp_path / "first")
    torch.testing.assert_close(logits(load(tmp_path / "second")), logits(on_top), atol=1e-5, rtol=1e-5)
    plain.save(tmp_path / "first")
    assert not holds_adapters(tmp_path / "first"), "a merged save takes the place of adapters"
    assert torch.equal(logits(load(tmp_path / "first")), logits(plain))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rank": 3}, r"holds adapters with rank 2, policy\.lora\.rank is 3"),
        ({"alpha": 4}, r"alpha 8, policy\.lora\.alpha is 4"),
        ({"target_modules": ["q_proj"]}, r"target_modules \['down_proj', 'q_proj'\], policy\.lora\.target_modules"),
    ],
)
def test_adapters_of_other_settings_are_refused(base: Path, tmp_path: Path, change: Any, said: str) -> None:
    load(base, lora=LORA).save(tmp_path / "saved")
    with pytest.raises(ValueError, match=said):
        load(base, lora={**LORA, **change}, adapter=tmp_path / "saved")


def test_broken_adapters_are_one_line(base: Path, tmp_path: Path, make_policy: Callable[..., Policy]) -> None:
    saved = tmp_path / "saved"
    load(base, lora=LORA).save(saved)
    make_policy("qwen3_tied", hidden_size=64, head_dim=32).save(tmp_path / "other")
    with pytest.raises(ValueError, match="holds adapters of another model"):
        load(tmp_path / "other", lora=LORA, adapter=saved)
    with pytest.raises(ValueError, match=r"cannot put the adapters in .* on top of .*other"):
        load(tmp_path / "other", adapter=saved)
    config = json.loads((saved / "adapter_config.json").read_text())
    for value, error, said in (
        (str(tmp_path / "gone"), FileNotFoundError, "gone does not exist"),
        (str(saved), ValueError, "said to lie over themselves"),
        (None, ValueError, "does not say over which weights"),
    ):
        (saved / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": value}))
        with pytest.raises(error, match=said):
            load(saved)
    (saved / "adapter_config.json").write_text("{")
    with pytest.raises(ValueError, match="is not valid JSON"):
        load(saved)
    (saved / "adapter_config.json").write_text(json.dumps(config))
    (saved / "adapter_model.safetensors").write_bytes(b"\0" * 20)
    with pytest.raises(ValueError, match=r"cannot read .*adapter_model\.safetensors"):
        load(base, lora=LORA, adapter=saved)
    with pytest.raises(ValueError, match="cannot put the adapters in"):
        load(saved)
    (saved / "adapter_model.safetensors").unlink()
    for how in ({"lora": LORA, "adapter": saved}, {"adapter": saved}):
        with pytest.raises(FileNotFoundError, match=r"it lacks adapter_model\.safetensors"):
            load(base, **how)
    with pytest.raises(FileNotFoundError, match=r"it lacks adapter_config\.json"):
        load(base, lora=LORA, adapter=base)


def test_a_run_whose_adapters_were_merged_is_refused(base: Path, tmp_path: Path) -> None:
    old = tmp_path / "iteration_1" / "solver"
    load(base).save(old)
    (old / "adapter").mkdir()
    with pytest.raises(ValueError, match="as earlier versions left them: finish the run with that version, or start"):
        run_of(tmp_path, base).load("solver", 1)
    assert torch.equal(logits(load(old)), logits(load(base))), "as a policy it is read"


@pytest.mark.slow
def test_a_run_hands_adapters_on_and_is_exported(base: Path, tmp_path: Path) -> None:
    """Two iterations; the second starts from the adapters of the first, over the base of the run."""
    made: list[tuple[str, Any]] = []

    def make(path: str, **more: Any) -> Policy:
        made.append((path, more.get("adapter")))
        return load(path, lora=LORA, **more)

    directory = tmp_path / "run"
    execute(tiny_run(directory, base, load=make, iterations=2))
    assert {path for path, _ in made} == {str(base)}, "one base for both roles in all iterations"
    place = RunDirectory(directory)
    left = {place.weights(role, iteration) for role in get_args(Role) for iteration in (1, 2)}
    assert {adapter for _, adapter in made} == {None, *left}
    first, second = (load_file(place.weights("solver", i) / "adapter_model.safetensors") for i in (1, 2))
    moved = [float((first[name] - second[name]).abs().max()) for name in first]
    assert 0 < max(moved) < 0.1, "a few small steps from the adapters before, not from fresh ones"
