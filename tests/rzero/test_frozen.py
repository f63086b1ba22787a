"""Frozen layers under adapters: rounded where a user allows it and the CPU is fast with bfloat16 matrices alone."""

import pytest
import torch
from torch import nn

from rzero import frozen
from rzero.adapters import LoraSpec, add_adapters
from rzero.frozen import FrozenLinear
from rzero.processes.cpu import only_bfloat16_matrices_are_fast, set_matmul_precision

ADAPTERS = LoraSpec(rank=4, alpha=8, dropout=0.0, target_modules=("q_proj", "down_proj"))


@pytest.fixture
def allowed(monkeypatch):
    monkeypatch.setattr(frozen, "only_bfloat16_matrices_are_fast", lambda: True)
    before = torch.get_float32_matmul_precision()
    set_matmul_precision("medium")
    yield
    torch.set_float32_matmul_precision(before)


def layer(*, bias=True):
    torch.manual_seed(1)
    plain = nn.Linear(96, 40, bias=bias).requires_grad_(requires_grad=False)
    return plain, FrozenLinear(plain)


def test_without_leave_to_round_it_is_the_layer_it_holds(monkeypatch):
    monkeypatch.setattr(frozen, "only_bfloat16_matrices_are_fast", lambda: True)
    plain, held = layer()
    x_TI = torch.randn(7, 96)
    assert torch.equal(held(x_TI), plain(x_TI))
    assert held.weight is plain.weight
    assert held.state_dict().keys() == plain.state_dict().keys()


@pytest.mark.usefixtures("allowed")
@pytest.mark.parametrize("bias", [True, False])
def test_values_and_gradients_are_those_of_rounded_matrices(bias):
    plain, held = layer(bias=bias)
    x_STI = torch.randn(2, 7, 96, requires_grad=True)
    weight_OI = plain.weight.bfloat16()
    expected = (x_STI.detach().bfloat16() @ weight_OI.t()).float() + (plain.bias if bias else 0.0)
    found = held(x_STI)
    assert torch.equal(found, expected)
    assert not torch.equal(found, plain(x_STI))
    assert torch.allclose(found, plain(x_STI), atol=0.02)
    gradient = torch.randn(2, 7, 40)
    found.backward(gradient)
    assert torch.equal(x_STI.grad, (gradient.bfloat16() @ weight_OI).float())
    assert plain.weight.grad is None


@pytest.mark.usefixtures("allowed")
def test_weights_that_are_trained_are_not_rounded():
    plain, held = layer()
    plain.weight.requires_grad_()
    x_TI = torch.randn(7, 96)
    assert torch.equal(held(x_TI), plain(x_TI))


def test_layers_below_adapters_are_frozen_ones_and_others_stay(make_policy):
    model = add_adapters(make_policy("qwen3").copy().model, ADAPTERS)
    kinds = {name.rpartition(".")[0]: type(part) for name, part in model.named_modules() if name.endswith("base_layer")}
    assert kinds
    assert set(kinds.values()) == {FrozenLinear}
    assert {name.rpartition(".")[2] for name in kinds} == {"q_proj", "down_proj"}
    assert sum(type(part) is FrozenLinear for part in model.modules()) == len(kinds)


@pytest.mark.parametrize(
    ("flags", "expected"), [("avx512_bf16", True), ("avx512_bf16 amx_bf16", False), ("avx2", False), ("", False)]
)
def test_which_cpus_are_meant(monkeypatch, flags, expected):
    monkeypatch.setattr("rzero.processes.cpu._facts", lambda: {"flags": f"fpu {flags}"})
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    only_bfloat16_matrices_are_fast.cache_clear()
    assert only_bfloat16_matrices_are_fast() is expected
    only_bfloat16_matrices_are_fast.cache_clear()
