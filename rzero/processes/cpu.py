"""Threads and kernels of the CPU.

torch and MKL choose among their kernels by the CPU they find, and each kernel adds up in an order of its own. One kind
of CPU therefore gives the same bits for the same seed, and another kind gives other last bits, which grow from step to
step into other samples. The choice `avx2` holds both to one set of kernels, which Intel's CPUs have had since 2013:
`ATEN_CPU_CAPABILITY` is read by torch, `MKL_CBWR` (conditional numerical reproducibility) by MKL, each once. On CPUs of
other makers MKL does not follow it (seen on an emulated EPYC), and the branch it would follow there takes 2.5 times as
long.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Final

import torch

NATIVE, AVX2 = "native", "avx2"
_VARIABLES: Final = {"ATEN_CPU_CAPABILITY": "avx2", "MKL_CBWR": "AVX2"}
_INFO: Final = Path("/proc/cpuinfo")
_chosen: str | None = None


def set_up_cpu(*, threads: int, kernels: str) -> None:
    """Set torch's threads and kernels for this process and for those it starts; to be called before any computation.

    kernels: `native`, the fastest that this CPU has, or `avx2`, the same on every Intel CPU that has AVX2.

    Raises ValueError for another choice or where `avx2` would not do that, RuntimeError where this process has computed
    with other kernels already.
    """
    global _chosen
    if kernels not in (NATIVE, AVX2):
        raise ValueError(f"cpu_kernels must be {NATIVE} or {AVX2}, got {kernels!r}")
    if kernels != (_chosen or kernels):
        raise RuntimeError(f"this process computes with {_chosen} kernels already; cpu_kernels={kernels} needs its own")
    if kernels == AVX2:
        if not torch.backends.mkl.is_available() or _facts().get("vendor_id") != "GenuineIntel":
            raise ValueError(
                f"cpu_kernels={AVX2} needs an Intel CPU, Linux and a torch with MKL; {NATIVE} gives the same bits "
                "on CPUs of one kind"
            )
        os.environ.update(_VARIABLES)
        if (found := torch.backends.cpu.get_cpu_capability()) != "AVX2":
            raise RuntimeError(f"cpu_kernels={AVX2} needs AVX2 and a fresh process; torch has settled for {found}")
    _chosen = kernels
    torch.set_num_threads(threads)


def set_matmul_precision(precision: str) -> None:
    """Set how this process rounds the factors of float32 matrix products; their sums stay float32.

    `highest`: not at all. `high`: to TF32 on GPUs. `medium`: the same there, and to bfloat16 on CPUs that have such
    products, which are two to four times as fast: all of them with AMX, with AVX512-BF16 alone those of `rzero.frozen`.

    Raises ValueError for another word.
    """
    if precision not in ("highest", "high", "medium"):
        raise ValueError(f"matmul_precision must be highest, high or medium, got {precision!r}")
    torch.set_float32_matmul_precision(precision)


@contextmanager
def float32_factors(device: torch.device) -> Iterator[None]:
    """Products on a CPU take float32 factors as they are while the context lasts, whatever `set_matmul_precision` said.

    For small products of ever other shapes: oneDNN, which rounds, makes a kernel for each shape and keeps it.
    """
    precision = torch.get_float32_matmul_precision()
    if device.type != "cpu" or precision == "highest":
        yield
        return
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)


@cache
def only_bfloat16_matrices_are_fast() -> bool:
    """Returns whether this CPU has AVX512-BF16 without AMX.

    oneDNN has products of bfloat16 matrices for it, and none that round float32 ones whatever may be rounded.
    """
    flags = set(_facts().get("flags", "").split())
    return "avx512_bf16" in flags and "amx_bf16" not in flags and torch.backends.cpu.get_cpu_capability() == "AVX512"


def describe_cpu() -> str:
    """Maker, family and model of the CPU and the kernels torch uses: what decides about the last bits of a result."""
    name, facts = platform.machine(), _facts()
    if {"vendor_id", "cpu family", "model"} <= facts.keys():  # x86; a virtual machine may hide the model's name
        name = "{vendor_id} family {cpu family} model {model}".format_map(facts)
    return f"{name}, {torch.backends.cpu.get_cpu_capability()} kernels"


def _facts() -> dict[str, str]:
    """Returns what Linux says of the first core; empty elsewhere."""
    if not _INFO.exists():
        return {}
    core = _INFO.read_text(encoding="utf-8").split("\n\n")[0]
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in core.splitlines())}
