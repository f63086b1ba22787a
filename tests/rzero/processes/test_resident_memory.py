"""The high-water marks of a run's processes, added up."""

from __future__ import annotations

import subprocess
import sys

from rzero.processes.memory import peak_resident_gib

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
