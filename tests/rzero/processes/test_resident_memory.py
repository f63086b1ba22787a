"""The high-water marks of a run's processes, added up, and what is free."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from rzero.processes import memory
from rzero.processes.memory import give_back, give_back_growth, let_go_of_files, peak_resident_gib

MIB = 2**20
linux_only = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's heap, and /proc")


def test_what_a_child_let_go_of_still_counts_while_it_lives() -> None:
    before = peak_resident_gib()
    code = f"x = bytearray({300 * MIB}); del x; print('ready', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-S", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        assert 0.29 < peak_resident_gib() - before < 0.4
        child.communicate("\n")
    assert peak_resident_gib() - before < 0.05


@linux_only
def test_what_is_free_between_pieces_that_are_in_use_goes_back_to_the_system() -> None:
    """In a process of its own: how a heap is laid out depends on all that was done before."""
    script = """
import ctypes, os, sys
from rzero.processes.memory import give_back
libc = ctypes.CDLL("libc.so.6")
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
pages = lambda: int(open("/proc/self/statm").read().split()[1])
pieces = [libc.malloc(100_000) for _ in range(2000)]
for piece in pieces:
    ctypes.memset(piece, 1, 100_000)
for number, piece in enumerate(pieces[:-1]):
    if number % 10:
        libc.free(piece)
held = pages()
give_back()
print((held - pages()) * os.sysconf("SC_PAGESIZE") / 2e8)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert float(done.stdout) > 0.8


def test_a_gpu_in_use_gives_back_too(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr("torch.cuda.empty_cache", lambda: calls.append("emptied"))
    give_back()
    monkeypatch.setattr("torch.cuda.is_initialized", lambda: True)
    give_back()
    assert calls == ["emptied"]


def test_a_heap_is_looked_through_when_it_has_grown(monkeypatch: pytest.MonkeyPatch) -> None:
    trimmed = []
    monkeypatch.setattr(memory, "_settled_gib", 2.0)
    monkeypatch.setattr("ctypes.CDLL", lambda name: SimpleNamespace(malloc_trim=trimmed.append))
    grown = 3.0 + memory.GROWTH_GIB
    for resident, times in ((3.0, 1), (3.0, 1), (2.0, 1), (grown, 1), (grown + 0.1, 2), (grown + 0.1, 2)):
        monkeypatch.setattr(memory, "_private_gib", lambda now=resident: now)
        give_back_growth()
        assert len(trimmed) == times, f"at {resident} GiB"


@linux_only
def test_weights_mapped_from_a_file_leave_memory_and_come_back(tmp_path: Path) -> None:
    path, count = tmp_path / "weights", 16 * MIB
    torch.arange(count, dtype=torch.int32).numpy().tofile(path)
    weights = torch.from_file(str(path), shared=False, size=count, dtype=torch.int32)
    process, expected = psutil.Process(), int(weights.sum(dtype=torch.int64))
    held = process.memory_info().rss
    let_go_of_files([weights[100:200], torch.zeros(10)])
    assert held - process.memory_info().rss > 40 * MIB, "64, and what it took to look"
    assert int(weights.sum(dtype=torch.int64)) == expected
    weights[7] = -1
    let_go_of_files([weights])
    assert int(weights[7]) == -1, "what was written is nowhere else"
