"""What a CPU computes with: how many threads, which kernels.

torch and MKL choose among their kernels by the CPU they find, and each kernel adds up in an order of its own. One kind
of CPU therefore gives the same bits for the same seed, and another kind gives other last bits, which grow from step to
step into other samples. With `portable` both are held to AVX2, which x86 CPUs have had since 2013 (AMD: 2015):
`ATEN_CPU_CAPABILITY` is read by torch, `MKL_CBWR` (conditional numerical reproducibility) by MKL, each once.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Final

import torch

NATIVE, PORTABLE = "native", "portable"
_VARIABLES: Final = {"ATEN_CPU_CAPABILITY": "avx2", "MKL_CBWR": "AVX2"}
_INFO: Final = Path("/proc/cpuinfo")
_chosen: str | None = None


def set_up_cpu(*, threads: int, kernels: str) -> None:
    """Set torch's threads and kernels for this process and for those it starts; to be called before any computation.

    kernels: `native`, the fastest that this CPU has, or `portable`, the same on every x86 CPU with AVX2.

    Raises ValueError for another choice or where `portable` is impossible, RuntimeError where this process has computed
    with other kernels already.
    """
    global _chosen
    if kernels not in (NATIVE, PORTABLE):
        raise ValueError(f"cpu_kernels must be {NATIVE} or {PORTABLE}, got {kernels!r}")
    if kernels != (_chosen or kernels):
        raise RuntimeError(f"this process computes with {_chosen} kernels already; cpu_kernels={kernels} needs its own")
    if kernels == PORTABLE:
        if not torch.backends.mkl.is_available():
            raise ValueError(f"cpu_kernels={PORTABLE} needs a torch built with MKL (x86); on this one use {NATIVE}")
        os.environ.update(_VARIABLES)
        if (found := torch.backends.cpu.get_cpu_capability()) != "AVX2":
            raise RuntimeError(f"cpu_kernels={PORTABLE} needs a CPU with AVX2 and a fresh process; torch uses {found}")
    _chosen = kernels
    torch.set_num_threads(threads)


def describe_cpu() -> str:
    """Maker, family and model of the CPU and the kernels torch uses: what decides about the last bits of a result."""
    name, kernels = platform.machine(), torch.backends.cpu.get_cpu_capability()
    if _INFO.exists():
        lines = [line.partition(":") for line in _INFO.read_text(encoding="utf-8").split("\n\n")[0].splitlines()]
        facts = {key.strip(): value.strip() for key, _, value in lines}
        if {"vendor_id", "cpu family", "model"} <= facts.keys():  # x86: a virtual machine may hide the model's name
            name = "{vendor_id} family {cpu family} model {model}".format_map(facts)
    return f"{name}, {kernels} kernels"
