"""What is said of the machine at hand before a run begins: no packages, no memory, and about how long it takes."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from experiments import at_hand
from experiments.planning import Hardware
from experiments.run import command
from tests.experiments.small import config

HALF_BILLION = ("experiment=qwen2_5_coder_0_5b",)
FAST = {"peak_tflops": 0.6, "tf32_tflops": 0.3, "fp32_tflops": 0.3, "bandwidth_gb_s": 10.0, "memory_gib": 16.0}


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The bytes that are free, to be set."""
    there = [6 * 2**30]
    monkeypatch.setattr(at_hand.psutil, "virtual_memory", lambda: SimpleNamespace(available=there[0]))
    return there


def refused(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    """The one line of a run that ends with code 2 before anything is loaded or left."""
    monkeypatch.setattr("experiments.composition.build", lambda *_, **__: pytest.fail("something was loaded"))
    monkeypatch.setattr(sys, "argv", ["experiments/run.py", *arguments])
    with pytest.raises(SystemExit) as stop:
        command()
    assert stop.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    return line


def test_a_model_too_large_for_the_free_memory_is_refused_in_one_line(
    tmp_path: Path, free: list[int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = dict(config(*HALF_BILLION).policy.architecture) | {"num_hidden_layers": 48}  # of this one, not the recipe's
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps({k: v for k, v in shape.items() if k != "head_dim"}))
    for name in ("model.safetensors", "tokenizer.json"):
        (tmp_path / "model" / name).touch()
    free[0] = 1_500_000_000
    arguments = (*HALF_BILLION, f"policy.path_or_id={tmp_path}/model", f"directory={tmp_path}/run")
    needed = r"needs an estimated ([\d,]+) bytes \([\d.]+ GiB\) of memory and 1,500,000,000 \(1.4 GiB\)"
    for on, least, most in (("true", 5, 9), ("false", 9, 14)):
        line = refused(capsys, monkeypatch, *arguments, f"policy.gradient_checkpointing={on}")
        assert ("policy.gradient_checkpointing=true" in line) == (on == "false"), "advised where it is off"
        found = re.search(needed, line)
        assert found, line
        assert least < int(found[1].replace(",", "")) / 2**30 < most
    assert not (tmp_path / "run").exists()


def test_missing_packages_and_a_wrong_sum_are_one_line_before_anything_is_loaded(
    tmp_path: Path, free: list[int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = (*HALF_BILLION, f"policy.package.directory={tmp_path}/none", f"directory={tmp_path}/run")
    assert "make models" in refused(capsys, monkeypatch, *run, "policy.package.parts=[carrier_zero/x]")
    for name in ("carrier_one", "gguf"):
        (tmp_path / "site" / name).mkdir(parents=True)
        (tmp_path / "site" / name / "__init__.py").touch()
        (tmp_path / "site" / name / "x").write_bytes(b"x")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    assert "has sha256 2d7116" in refused(capsys, monkeypatch, *run, "policy.package.parts=[carrier_one/x]")
    assert not (tmp_path / "run").exists()


def test_memory_is_enough_for_what_fits_and_small_models_are_not_asked(free: list[int]) -> None:
    free[0] = 16 * 2**30
    at_hand.require_memory(config(*HALF_BILLION))
    free[0] = 1
    at_hand.require_memory(config())
    assert at_hand.estimate(config(), questions={}) is None


def test_the_estimate_counts_rollouts_updates_and_evaluations(monkeypatch: pytest.MonkeyPatch) -> None:
    def fast(*, threads: int, dtype: str, **assumed: object) -> Hardware:
        assert (threads, dtype) == (2, "int8")
        return Hardware(name="x", **FAST, **assumed)  # type: ignore[arg-type]

    monkeypatch.setattr(at_hand, "measured", fast)
    numbers = []
    for more in ((), ("iterations=4",)):
        line = at_hand.estimate(config(*HALF_BILLION, *more), questions={"gsm8k": 200, "math500": 100})
        assert line is not None
        assert "rough" in line
        numbers.append([float(text) for text in re.findall(r"([\d.]+) h", line)])
    (two, rollouts, updates, evaluation), (four, *_) = numbers
    assert two == pytest.approx(2 * (rollouts + updates) + 3 * evaluation, abs=0.3)
    assert four - two == pytest.approx(2 * (rollouts + updates + evaluation), abs=0.3)


def test_a_moment_of_products_gives_rates() -> None:
    assumed = {name: value for name, value in vars_of(at_hand._unmeasured()).items() if name not in (*FAST, "name")}
    device = at_hand.measured(threads=1, dtype=None, **assumed)
    assert 0 < min(device.peak_tflops, device.fp32_tflops) < 1000
    assert device.memory_gib > 0


def vars_of(device: Hardware) -> dict[str, object]:
    return {name: getattr(device, name) for name in device.__dataclass_fields__}
