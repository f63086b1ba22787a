"""The same bits on every Intel CPU with AVX2 kernels; and no process gets others than it asked for in silence."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from rzero.processes import cpu

PROJECT = Path(__file__).resolve().parents[2]
PROGRAM = """
import hashlib, json
import torch
from torch.nn import functional as F
from rzero.processes.cpu import describe_cpu, set_up_cpu

set_up_cpu(threads=1, kernels="avx2")
seeded = torch.Generator().manual_seed(0)

def digest(*tensors):
    whole = hashlib.sha256()
    for tensor in tensors:
        whole.update(tensor.detach().contiguous().numpy().tobytes())
    return whole.hexdigest()[:10]

width, inner, vocabulary, tokens = 128, 384, 160, 512
x = torch.randn(tokens, width, generator=seeded)
shapes = (inner, width), (width, inner), (vocabulary, width), (width, width)
up, down, head, query = weights = [
    torch.randn(*shape, generator=seeded).mul_(0.1).requires_grad_() for shape in shapes
]
mlp = F.silu(x @ up.T) @ down.T
q = (x @ query.T).view(8, 64, 4, 32).transpose(1, 2)
attention = F.scaled_dot_product_attention(q, q, q, is_causal=True)
z = attention.transpose(1, 2).reshape(tokens, width) + mlp
z = z * torch.rsqrt(z.pow(2).mean(-1, keepdim=True) + 1e-6)
logprobs = torch.log_softmax(z @ head.T, -1)
targets = torch.randint(0, vocabulary, (tokens, 1), generator=seeded)
(-logprobs.gather(1, targets).exp().mean()).backward()
found = {"mlp": digest(mlp), "attention": digest(attention), "logprobs": digest(logprobs)}
found["gradients"] = digest(*(weight.grad for weight in weights))
torch.optim.AdamW(weights, lr=1e-3).step()
print(json.dumps(found | {"weights": digest(*weights), "cpu": describe_cpu()}))
"""
TORCH = "2.13.0"
BITS = {
    "mlp": "172937f30a", "attention": "5b4049b3f5", "logprobs": "6b3ea487d3",
    "gradients": "d4f5f7a22a", "weights": "f9250d5a26",
}  # fmt: skip
"""An update of a small block in this release of torch, on an Emerald Rapids and on an emulated Haswell."""


def computed() -> dict[str, Any]:
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=environment, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


INTEL = "processor\t: {}\nvendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 207\nmodel name\t: Xeon\n"


@pytest.fixture
def core(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A process that has chosen no kernels yet, on an Intel CPU of two cores; the file that says so."""
    for name in ("ATEN_CPU_CAPABILITY", "MKL_CBWR"):
        monkeypatch.setenv(name, "")  # so that what a test sets is taken back
    info = tmp_path / "cpuinfo"
    info.write_text("\n".join(INTEL.format(i) for i in range(2)))
    monkeypatch.setattr(cpu, "_INFO", info)
    monkeypatch.setattr(cpu, "_chosen", None)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    return info


def test_avx2_kernels_give_the_same_bits_as_on_other_machines() -> None:
    if torch.__version__.partition("+")[0] != TORCH:
        pytest.skip(f"the bits were taken down with torch {TORCH}, this is {torch.__version__}")
    if "GenuineIntel" not in cpu.describe_cpu() or not torch.backends.mkl.is_available():
        pytest.skip("MKL gives the same bits on Intel CPUs only")
    found = computed()
    assert found.pop("cpu").endswith(", AVX2 kernels")
    assert found == BITS


@pytest.mark.usefixtures("core")
def test_another_choice_than_before_is_refused() -> None:
    cpu.set_up_cpu(threads=1, kernels="native")
    cpu.set_up_cpu(threads=1, kernels="native")
    with pytest.raises(RuntimeError, match="native kernels already; cpu_kernels=avx2"):
        cpu.set_up_cpu(threads=1, kernels="avx2")


@pytest.mark.usefixtures("core")
def test_a_process_that_has_computed_with_other_kernels_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    with pytest.raises(RuntimeError, match="settled for AVX512"):
        cpu.set_up_cpu(threads=1, kernels="avx2")
    cpu.set_up_cpu(threads=1, kernels="native")


def test_avx2_is_refused_where_it_would_not_give_the_same_bits(core: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    core.write_text(INTEL.format(0).replace("GenuineIntel", "AuthenticAMD"))
    with pytest.raises(ValueError, match="needs an Intel CPU"):
        cpu.set_up_cpu(threads=1, kernels="avx2")
    core.write_text(INTEL.format(0))
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: False)
    with pytest.raises(ValueError, match="a torch with MKL"):
        cpu.set_up_cpu(threads=1, kernels="avx2")
    assert os.environ["MKL_CBWR"] == ""


def test_unknown_kernels_are_refused() -> None:
    with pytest.raises(ValueError, match="native or avx2, got 'fast'"):
        cpu.set_up_cpu(threads=1, kernels="fast")


def test_the_cpu_is_described_with_its_kernels(core: Path) -> None:
    kernels = torch.backends.cpu.get_cpu_capability()
    assert cpu.describe_cpu() == f"GenuineIntel family 6 model 207, {kernels} kernels"
    core.unlink()
    assert cpu.describe_cpu().endswith(f", {kernels} kernels")


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
def test_factors_of_float32_products_are_rounded_as_asked(precision: str) -> None:
    """On GPUs; the CPU's products stay as they are."""
    factors = torch.randn(2, 64, 64, generator=torch.Generator().manual_seed(0))
    before = torch.get_float32_matmul_precision()
    exact = factors[0] @ factors[1]
    try:
        cpu.set_matmul_precision(precision)
        assert torch.get_float32_matmul_precision() == precision
        if precision != "medium":  # CPUs with bf16 units may use these
            assert torch.equal(factors[0] @ factors[1], exact)
    finally:
        cpu.set_matmul_precision(before)


@pytest.mark.parametrize(("device", "inside"), [("cpu", "highest"), ("meta", "medium")])
def test_factors_stay_as_they_are_for_a_while(device: str, inside: str) -> None:
    before = torch.get_float32_matmul_precision()
    try:
        cpu.set_matmul_precision("medium")
        with cpu.float32_factors(torch.device(device)):
            assert torch.get_float32_matmul_precision() == inside
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        cpu.set_matmul_precision(before)


def test_another_matmul_precision_is_refused() -> None:
    before = torch.get_float32_matmul_precision()
    with pytest.raises(ValueError, match=r"highest, high or medium, got 'tf32'"):
        cpu.set_matmul_precision("tf32")
    assert torch.get_float32_matmul_precision() == before
