"""The paper's presets on real devices, by simulation of their memory at the real shapes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import pytest
from hydra.utils import instantiate

from experiments.compose import compose
from experiments.plan import main, plan
from experiments.planning import Architecture, Rollouts, Setting, simulation, update
from experiments.planning.simulation import Case, simulated_peaks
from rzero.types import Json
from tests.gpu import real_shape

pytestmark = pytest.mark.slow

POLICIES = ("qwen3_4b_base", "qwen3_8b_base", "octothinker_3b", "octothinker_8b")
LARGEST = ("qwen3_8b_base", "octothinker_8b")
PRESETS = [f"experiment=paper policy={policy}" for policy in POLICIES]
PRESETS += [
    f"experiment=official policy={policy}" for policy in LARGEST
]  # with tensors of the paper's sizes, see below
ROLES = ("challenger", "solver")


def of_size(case: Case) -> str:
    """What of a case tensors depend on: how a loss weighs and clips changes their values alone."""
    settings, loss = case.settings, case.loss
    optimizer = case.optimizer
    assert isinstance(optimizer, partial)
    return json.dumps([
        case.policy, case.devices, case.mixed, case.prompt, case.length, settings.max_tokens_per_microbatch,
        settings.chunk_tokens, settings.share_prompts, loss.needs_reference, loss.kl_placement,
        loss.entropy_coefficient, str(optimizer.func),
    ])  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def shared() -> Iterator[dict[str, dict[str, float]]]:
    """Each case is simulated once."""
    done: dict[str, dict[str, float]] = {}

    def once(case: Case) -> dict[str, float]:
        key = of_size(case)
        if key not in done:
            done[key] = simulated_peaks(case)
        return done[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simulation, "simulated_peaks", once)
        yield done


def roles(figures: Json) -> list[Json]:
    return [figures["phases"][role] for role in ROLES]


@pytest.mark.parametrize(
    "preset", [f"{chosen} trainer.devices=8" for chosen in PRESETS] + ["experiment=paper_lora_1gpu"]
)
def test_it_fits_devices_of_80_gb(preset: str) -> None:
    figures = plan(preset.split(), simulate=True)
    assert figures["fits"], figures["advice"]
    for role in roles(figures):
        assert role["simulated"]["planned"] == pytest.approx(role["simulated"]["peak"], rel=0.1)
        assert role["memory"]["trainer"] == pytest.approx(role["simulated"]["peak"])


def test_the_authors_losses_need_what_the_papers_does(shared: dict[str, dict[str, float]]) -> None:
    """So the figures of `experiment=official` may be those of `experiment=paper`."""
    cases: dict[str, Case] = {}

    def caught(case: Case) -> dict[str, float]:
        cases[of_size(case)] = case
        return {"update: nothing": 1.0}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simulation, "simulated_peaks", caught)
        plan(["experiment=official", "policy=qwen3_4b_base", "trainer.devices=8"], simulate=True)
    [(key, case)] = cases.items()
    assert max(simulated_peaks(case).values()) == pytest.approx(max(shared[key].values()), rel=1e-4)


def test_all_weights_on_one_gpu_are_refused() -> None:
    figures = plan(["experiment=paper", "trainer=gpu", "engine=vllm_gpu"], simulate=True)
    assert not figures["fits"]
    for role in roles(figures):
        assert "trainer=fsdp" in role["advice"][0]
        assert "a *_lora policy" in role["advice"][0]
        assert role["simulated"]["planned"] == pytest.approx(role["simulated"]["peak"], rel=0.1)


def test_8b_fits_eight_of_80_gb_and_not_of_40(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["experiment=paper", "policy=qwen3_8b_base", "trainer.devices=8", "--simulate"]
    assert main(command) == 0
    text = capsys.readouterr().out
    assert text.count("trainer's tensors: simulated") == 2
    assert text.count("by formula") == 2
    assert main([*command, "hardware=a100_40gb"]) == 1
    text = capsys.readouterr().out
    assert "change" in text
    assert "more devices than trainer.devices=8" in text
    assert "whole run" not in text


def test_devices_of_all_nodes_share_the_tensors() -> None:
    seen: list[int] = []

    def caught(case: Case) -> dict[str, float]:
        seen.append(case.devices)
        return {"update: nothing": 1.0}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simulation, "simulated_peaks", caught)
        plan(["experiment=paper", "trainer.devices=8", "trainer.num_nodes=2"], simulate=True)
    assert seen == [16]


def test_what_a_gpu_is_compared_with_is_what_is_planned() -> None:
    """`tests/gpu/real_shape.py` has the figures, because only `rzero` is imported there."""
    workload = real_shape.REAL
    case = Case(
        policy={
            "architecture": workload.architecture, "dtype": "float32", "attn_implementation": "sdpa",
            "gradient_checkpointing": True, "lora": None,
        },
        devices=1, mixed=True, settings=workload.settings(), loss=real_shape.loss(), optimizer=real_shape.optimizer(),
        prompt=workload.prompt, length=workload.prompt + workload.response,
    )  # fmt: skip
    assert max(simulated_peaks(case).values()) == pytest.approx(real_shape.PLANNED_BYTES, rel=1e-4)
    shape = {name: value for name, value in workload.architecture.items() if name != "model_type"}
    rollouts = Rollouts(engines=1, copies=1, weight_bytes=4, rows=1, response_tokens=workload.response)
    setting = Setting(
        devices=1, nodes=1, sharded=False, weight_bytes=4, mixed=True, tf32=True, lora=None, checkpointing=True,
        rollouts=rollouts,
    )  # fmt: skip
    for name, seconds in real_shape.PLANNED_SECONDS.items():
        cfg = compose("experiment=paper", f"+hardware={name}", groups=("hardware",))
        hardware = replace(instantiate(cfg.hardware, _convert_="all"), response_fraction=1.0)
        work = update(
            Architecture(**shape), setting, hardware, completions=workload.rows, prompts=workload.rows, passes=2,
            steps=2, microbatch_tokens=workload.max_tokens_per_microbatch,
        )  # fmt: skip
        assert hardware.prompt_tokens == workload.prompt
        assert work.hours * 3600 == pytest.approx(seconds, rel=0.01)
