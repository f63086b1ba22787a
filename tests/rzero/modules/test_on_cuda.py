"""A step of training on a GPU, as far as that can be shown without one: on a pretend device, and in bf16 on the CPU."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch

from rzero.engines.embedded import EmbeddedEngine
from rzero.gathering import merged_weights
from rzero.modules import GRPOModule, checkpoint
from rzero.modules.fit import fit
from rzero.modules.reference import reference_of
from rzero.policy import Policy, load_policy
from rzero.processes.ranks import Ranks
from tests.pretend_cuda import CUDA, on_cuda, pretend_cuda
from tests.rzero.processes.two_processes import LORA, make_loss, make_module, make_trainer, settings

pytestmark = pytest.mark.usefixtures("quiet_lightning")
PLAIN = {"dtype": "float32", "attn_implementation": "sdpa"}


def loaded(base: Path, *, tuning: str) -> Policy:
    lora = LORA if tuning == "lora" else None
    return load_policy(
        base, dtype="float32", attn_implementation="sdpa", lora=lora, gradient_checkpointing=tuning == "checkpointing"
    )


class Optimizer:
    """What Lightning's wrapper offers of an optimiser."""

    def __init__(self, module: GRPOModule[Any]) -> None:
        self._optimizer = module.configure_optimizers()
        self.param_groups = self._optimizer.param_groups
        self.step, self.zero_grad = self._optimizer.step, self._optimizer.zero_grad


def metrics_of_a_step(
    policy: Policy, *, role: str, monkeypatch: pytest.MonkeyPatch, **changes: Any
) -> dict[str, float]:
    """One `training_step` without a trainer, where the policy is. Times are left out."""
    device = policy.model.device
    adamw = functools.partial(torch.optim.AdamW, lr=1e-2, eps=1e-3, foreach=False)
    module = make_module(policy, role=role, ranks=Ranks(), optimizer=adamw, **changes)
    optimizer = Optimizer(module)
    monkeypatch.setattr(type(module), "device", property(lambda self: device))
    monkeypatch.setattr("rzero.modules.base.LightningOptimizer", Optimizer)
    monkeypatch.setattr(module, "optimizers", lambda: optimizer)
    monkeypatch.setattr(module, "manual_backward", lambda loss: loss.backward())
    module._trainer = FakeTrainer(module.model)
    module.on_fit_start()
    policy.model.train()
    module.training_step(0, 0)
    return {name: value for name, value in module.step_metrics.items() if "timing" not in name and "perf" not in name}


class FakeTrainer:
    def __init__(self, model: torch.nn.Module) -> None:
        self.strategy = self
        self.model = model


CASES = [
    ("solver", "full", {"share_prompts": False}, {}),
    ("solver", "full", {"share_prompts": True}, {}),
    ("solver", "lora", {"share_prompts": True}, {}),
    ("solver", "checkpointing", {"share_prompts": True}, {"kl_placement": "reward"}),
    ("challenger", "full", {"share_prompts": True}, {}),
    ("challenger", "lora", {"share_prompts": False}, {"kl_placement": "reward"}),
    ("challenger", "checkpointing", {"share_prompts": False}, {}),
    ("solver", "lora", {"share_prompts": False}, {"kl_placement": "reward"}),
]


@pytest.mark.parametrize(("role", "tuning", "options", "loss"), CASES)
def test_a_step_mixes_no_devices_and_gives_the_numbers_of_the_cpu(
    role: str, tuning: str, options: dict[str, Any], loss: dict[str, Any], base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"settings": settings(**options), "loss": make_loss(**loss)}
    here = loaded(base, tuning=tuning)
    expected = metrics_of_a_step(here, role=role, monkeypatch=monkeypatch, **changes)
    there = loaded(base, tuning=tuning)
    with pretend_cuda():
        on_cuda(there.model)
        assert there.model.device == CUDA
        measured = metrics_of_a_step(there, role=role, monkeypatch=monkeypatch, **changes)
    assert measured == pytest.approx(expected, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_what_is_saved_and_loaded_is_what_the_cpu_saves_and_loads(tuning: str, base: Path, tmp_path: Path) -> None:
    """The directory of a policy, and a checkpoint with the optimiser's state."""
    policy = loaded(base, tuning=tuning)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    policy.save(tmp_path / "here")
    with pretend_cuda():
        on_cuda(policy.model)
        policy.save(tmp_path / "there")
        optimizer = fresh(policy)
        for parameter in optimizer.param_groups[0]["params"]:
            parameter.grad = parameter.detach() * 0.1
        optimizer.step()
        checkpoint.save(tmp_path / "paused", model=policy.model, optimizer=optimizer, write=True)
        again = loaded(base, tuning=tuning)
        on_cuda(again.model)
        checkpoint.load_weights(tmp_path / "paused", again.model)
        restored = fresh(again)
        checkpoint.load_optimizer(tmp_path / "paused", restored)
        expected, found = merged_weights(policy.model), merged_weights(again.model)
        assert {name: tensor.device for name, tensor in found.items()} == dict.fromkeys(expected, CUDA)
        assert all(torch.equal(found[name].cpu(), tensor.cpu()) for name, tensor in expected.items())
        moments = [[state["exp_avg"].cpu() for state in each.state.values()] for each in (optimizer, restored)]
    assert all(torch.equal(one, other) for one, other in zip(*moments, strict=True))
    hashes = [load_policy(tmp_path / place, **PLAIN).weights_hash() for place in ("here", "there")]
    assert hashes[0] == hashes[1]


def fresh(policy: Policy) -> torch.optim.Optimizer:
    """An optimiser over what is trained, without a step."""
    trained = [parameter for parameter in policy.model.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(trained, lr=1e-2, foreach=False)


def test_rollouts_stay_out_of_the_autocast_of_the_update(base: Path, tmp_path: Path) -> None:
    """In bf16 the engine's own check after a sync failed, or tokens were drawn from sums in bf16."""
    policy = load_policy(base, dtype="float32", attn_implementation="sdpa")
    seen: list[bool] = []

    class Watched(EmbeddedEngine):
        def generate(self, *args: Any, **kwargs: Any) -> Any:
            seen.append(torch.is_autocast_enabled("cpu"))
            return super().generate(*args, **kwargs)

    engine = Watched(
        max_rows=64, threads=1, compact_below=0.85, prefill_tokens=4096, first_capacity=16, verify_sync=True,
        decoder="auto",
    )  # fmt: skip
    module = make_module(policy, role="solver", ranks=Ranks(), engine=engine, reference=reference_of(policy))
    steps: list[dict[str, float]] = []
    trainer = functools.partial(make_trainer, precision="bf16-mixed")
    fit(module, make_trainer=trainer, after_step=lambda metrics: steps.append(dict(metrics)), directory=tmp_path)
    assert seen == [False, False]
    assert all(step["solver/grad_norm"] > 0 for step in steps)


def test_memory_is_there_for_an_engine_that_wakes_and_for_the_policy_that_learns(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the trainer's allocator keeps is given back before a rollout, what the engine has before the update."""
    calls: list[str] = []

    class Resting(EmbeddedEngine):
        def sync(self, policy: Policy) -> None:
            calls.append("sync")
            super().sync(policy)

        def rest(self) -> None:
            calls.append("rest")

    engine = Resting(
        max_rows=64, threads=1, compact_below=0.85, prefill_tokens=4096, first_capacity=16, verify_sync=True,
        decoder="auto",
    )  # fmt: skip
    policy = loaded(base, tuning="full")
    learned = {"timing_s/update": 1.0, "num_tokens_learned": 0.0}
    with pretend_cuda():
        on_cuda(policy.model)
        monkeypatch.setattr("rzero.modules.base.give_back", lambda: calls.append("give back"))
        monkeypatch.setattr(GRPOModule, "learn", lambda *_: calls.append("learn") or learned)
        metrics_of_a_step(policy, role="solver", monkeypatch=monkeypatch, engine=engine)
    assert calls == ["give back", "sync", "rest", "give back", "learn"]
