"""The pretend device refuses what CUDA refuses, and nothing else."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.pretend_cuda import CUDA, on_cuda, pretend_cuda


def test_values_gradients_and_moves() -> None:
    with pretend_cuda():
        weights = torch.arange(6.0, requires_grad=True)
        moved = weights.to("cuda")
        assert moved.device == CUDA
        assert (moved * torch.ones(6, device="cuda")).sum().item() == 15.0
        (moved**2).sum().backward()
        assert weights.grad is not None
        assert weights.grad.tolist() == [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]
        assert moved.cpu().device.type == "cpu"
        assert torch.zeros(2).to(moved).device == CUDA


@pytest.mark.parametrize(
    "mixed",
    [
        lambda cuda, cpu: cuda + cpu,
        lambda cuda, cpu: cpu * cuda,
        lambda cuda, cpu: torch.cat([cuda, cpu]),
        lambda cuda, cpu: cpu[cuda.long()],
        lambda cuda, cpu: torch.isin(cuda, cpu),
        lambda cuda, cpu: cpu.add_(cuda),
        lambda cuda, cpu: cuda.index_put_((torch.tensor([0, 1], device="cuda"),), cpu[:2]),
        lambda cuda, cpu: torch.where(cuda > 0, cpu, cpu),
    ],
    ids=["add", "multiply", "cat", "index", "isin", "in place", "index_put", "where"],
)
def test_mixtures_are_refused(mixed) -> None:
    with pretend_cuda(), pytest.raises(RuntimeError, match="same device"):
        mixed(torch.arange(3.0, device="cuda"), torch.arange(3.0))


def test_what_cuda_allows() -> None:
    with pretend_cuda():
        cuda, cpu = torch.arange(3.0, device="cuda"), torch.arange(3.0)
        assert (cuda * torch.tensor(2.0)).tolist() == [0.0, 2.0, 4.0]  # numbers may come from the host
        assert cuda[torch.tensor([2, 0])].tolist() == [2.0, 0.0]  # and so may indices
        assert cuda.copy_(cpu + 1).tolist() == [1.0, 2.0, 3.0]
        assert cpu.copy_(cuda).tolist() == [1.0, 2.0, 3.0]
        with pytest.raises(TypeError, match=r"cpu\(\) first"):
            cuda.numpy()


def test_a_module_moves_with_its_ties() -> None:
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    model[1].weight = model[0].weight
    data = torch.ones(1, 3)
    expected = model(data).tolist()
    with pretend_cuda():
        on_cuda(model)
        assert model[0].weight is model[1].weight
        assert model(data.to("cuda")).tolist() == expected
        with pytest.raises(RuntimeError, match="same device"):
            model(data)
