"""Memory of a run: the high-water marks of all its processes added up, and what goes back to the system."""

from __future__ import annotations

import ctypes
import re
from contextlib import suppress
from pathlib import Path
from typing import Final

import psutil
import torch

_PROC: Final = Path("/proc")
_MARK: Final = re.compile(r"^VmHWM:\s+(\d+) kB$", re.MULTILINE)


def peak_resident_gib() -> float:
    """Returns the most that this process and those below it that live now ever had resident, added up, in GiB.

    What processes share, such as libraries, counts in each of them, and their peaks need not have come together: no
    more was ever in use. Processes that are gone, and those that a launcher started beside this one, do not count.
    """
    own = psutil.Process()
    return sum(_peak_kib(process.pid) for process in (own, *own.children(recursive=True))) / 2**20


def give_back() -> None:
    """Gives the system what is free: on glibc's heap, where it is there, and in the allocator of a GPU in use.

    Both would keep it for whoever asks for pieces of the same size: what a rollout has freed stood beside the update
    that followed, and the other way round.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _peak_kib(pid: int) -> int:
    """0 for a process that has ended meanwhile, or has only its exit code left."""
    with suppress(OSError):
        if found := _MARK.search((_PROC / str(pid) / "status").read_text(encoding="utf-8")):
            return int(found[1])
    return 0
