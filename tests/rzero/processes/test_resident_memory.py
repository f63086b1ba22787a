"""The high-water marks of a run's processes, added up, and what is free."""

from __future__ import annotations

import subprocess
import sys

import pytest

from rzero.processes.memory import give_back, peak_resident_gib

MIB = 2**20


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


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's heap")
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
