"""A step of full fine-tuning at a real shape with random weights: its time and its memory against the plan's."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from rzero.modules.reference import FrozenCopy, reference_of
from rzero.modules.update import Update
from rzero.policy import Policy
from rzero.processes.cpu import set_matmul_precision
from rzero.processes.ranks import Ranks
from rzero.types import RewardBreakdown
from tests.gpu.real_shape import HARDWARE, PLANNED_BYTES, PLANNED_SECONDS, REAL, SMALL, Workload, loss, optimizer

MEMORY_TOLERANCE = 0.2
"""Kernels of GPUs have work space that a simulation with those of the CPU does not see."""
TIME_FACTOR = 3.0
"""Plans assume how well a GPU is used; this is how wrong that may be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """seconds: of the second update; the first warms up. peak: bytes of tensors (0 on CPUs). metrics: of the second."""

    seconds: float
    peak: int
    metrics: dict[str, float]


def made(workload: Workload, device: torch.device) -> Update:
    """The update of a policy with random weights that are made on the device."""
    config = AutoConfig.for_model(**workload.architecture)
    with device:
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="sdpa")
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    reference = reference_of(Policy(model=model.train(), tokenizer=cast(Any, None)))
    assert isinstance(reference, FrozenCopy)
    return Update(
        model=model, reference=reference, wrapper=None, optimizer=optimizer()(model.parameters()),
        backward=torch.Tensor.backward, settings=workload.settings(), loss=loss(), ranks=Ranks(), pad_id=0,
        device=device,
    )  # fmt: skip


def timed(update: Update, workload: Workload, device: torch.device) -> tuple[float, dict[str, float]]:
    """Seconds and metrics of an update as Lightning's bf16-mixed runs it."""
    groups = workload.groups()
    rewards = [[RewardBreakdown(total=0.0), RewardBreakdown(total=1.0)]] * len(groups)
    begin = time.perf_counter()
    with torch.autocast(device.type, dtype=torch.bfloat16, cache_enabled=False):
        metrics = update(groups, rewards)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begin, metrics


@pytest.fixture(scope="module")
def measured(device: torch.device) -> Iterator[Measured]:
    cuda, before = device.type == "cuda", torch.get_float32_matmul_precision()
    if cuda:
        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info()
        if free < (1 + MEMORY_TOLERANCE) * PLANNED_BYTES:
            pytest.skip(f"needs {PLANNED_BYTES / 2**30:.0f} GiB and some; {free / 2**30:.0f} GiB are free on this GPU")
        torch.cuda.reset_peak_memory_stats()
    set_matmul_precision("high")
    workload = REAL if cuda else SMALL
    update = made(workload, device)
    timed(update, workload, device)
    seconds, metrics = timed(update, workload, device)
    yield Measured(seconds=seconds, peak=torch.cuda.max_memory_allocated() if cuda else 0, metrics=metrics)
    set_matmul_precision(before)


def test_the_update_learns(measured: Measured) -> None:
    assert measured.metrics["grad_norm"] > 0
    assert measured.metrics["skipped_steps"] == 0


ON_A_GPU = pytest.mark.parametrize("device", [pytest.param("cuda", marks=pytest.mark.gpu)], indirect=True)


@ON_A_GPU
def test_its_peak_is_the_planned_one(measured: Measured) -> None:
    print(f"peak {measured.peak / 2**30:.2f} GiB, planned {PLANNED_BYTES / 2**30:.2f} GiB")
    assert measured.peak == pytest.approx(PLANNED_BYTES, rel=MEMORY_TOLERANCE)


@ON_A_GPU
def test_it_takes_the_planned_time(measured: Measured) -> None:
    name = torch.cuda.get_device_name()
    known = [hardware for part, hardware in HARDWARE.items() if part in name]
    if not known:
        pytest.skip(f"conf/hardware does not know {name}; the update took {measured.seconds:.2f} s there")
    planned = PLANNED_SECONDS[known[0]]
    print(f"{measured.seconds:.2f} s on {name}, planned {planned:.2f} s")
    assert planned / TIME_FACTOR < measured.seconds < planned * TIME_FACTOR
