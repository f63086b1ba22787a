"""The limit on open files is raised where it may be, respected where it may not, and named where it is too low."""

from __future__ import annotations

import subprocess
import sys

import pytest


def connections(limits: str, *, wanted: int, servers: int) -> tuple[str, str]:
    """What a fresh process under `ulimit` may open to each server, or its complaint, and its soft limit afterwards."""
    program = (
        "import resource\n"
        "from rzero.processes.open_files import connections_per_server\n"
        "try:\n"
        f"    print(connections_per_server({wanted}, servers={servers}))\n"
        "except OSError as error:\n"
        "    print(error)\n"
        "print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])\n"
    )
    command = ["bash", "-c", f"{limits}; exec {sys.executable} -c '{program}'"]
    said, soft = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return said, soft


@pytest.mark.parametrize(
    ("limits", "said", "soft"),
    [
        ("ulimit -Hn 8192; ulimit -Sn 1024", "256", "2248"),  # the usual machine: the soft limit is raised
        ("ulimit -n 1024", "103", "1024"),  # (1024 - 200) / 8: fewer at a time, none refused
        ("ulimit -Hn 8192; ulimit -Sn 4096", "256", "4096"),
    ],
)
def test_eight_servers_of_256_rows(limits: str, said: str, soft: str) -> None:
    assert connections(limits, wanted=256, servers=8) == (said, soft)


def test_a_limit_that_leaves_nothing_is_named() -> None:
    said, _ = connections("ulimit -n 204", wanted=256, servers=8)
    assert said.startswith("this process may have 204 files open (ulimit -n)")
    assert "raise the hard limit to 2248" in said
