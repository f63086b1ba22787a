"""Memory of a run: the high-water marks of all its processes added up, and what goes back to the system."""

from __future__ import annotations

import ctypes
import mmap
import re
import resource
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import psutil
import torch
from torch import Tensor

_PROC: Final = Path("/proc")
_MARK: Final = re.compile(r"^VmHWM:\s+(\d+) kB$", re.MULTILINE)
_MAPPING: Final = re.compile(r"(?P<first>[0-9a-f]+)-(?P<behind>[0-9a-f]+) \S+ \S+ \S+ (?P<inode>\d+)")
_OWN_KIB: Final = re.compile(r"^(?:Anonymous|Swap):\s+(\d+) kB$", re.MULTILINE)
GROWTH_GIB: Final = 0.25
"""By how much a heap may grow before holes are looked for."""

_settled_gib = 0.0


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
    _trim()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def give_back_growth(*, gib: float = GROWTH_GIB) -> None:
    """Gives the system what is free on glibc's heap once this process has grown by `gib` since the last time.

    For work of minutes whose pieces come and go in all sizes: new ones do not fit the holes of old ones, so that the
    heap grows though no more is in use. Each time costs fresh pages, some tenths of a second a GiB.
    """
    if _private_gib() > _settled_gib + gib:
        _trim()


def _trim() -> None:
    global _settled_gib  # a process has one heap
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    _settled_gib = _private_gib()


def _private_gib() -> float:
    """Resident memory of this process without what it shares with files; 0 where the system does not tell."""
    with suppress(OSError):
        _, resident, shared, *_ = map(int, (_PROC / "self" / "statm").read_text(encoding="ascii").split())
        return (resident - shared) * resource.getpagesize() / 2**30
    return 0.0


def let_go_of_files(tensors: Iterable[Tensor]) -> None:
    """Takes weights that are mapped from a file out of this process's memory; whoever reads them brings them back.

    Pages that were written to would be lost, so a mapping with one of them stays as it is. Does nothing where the
    system does not list mappings.
    """
    places = {tensor.data_ptr() for tensor in tensors if tensor.device.type == "cpu"}
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        for first, behind in _clean_files((_PROC / "self" / "smaps").read_text(encoding="utf-8", errors="replace")):
            if any(first <= place < behind for place in places):
                libc.madvise(ctypes.c_void_p(first), ctypes.c_size_t(behind - first), mmap.MADV_DONTNEED)


def _clean_files(smaps: str) -> Iterator[tuple[int, int]]:
    """Yields where each mapping of a file begins and ends of which no page is this process's own."""
    for mapping in re.split(r"\n(?=[0-9a-f]+-[0-9a-f]+ )", smaps):
        head = _MAPPING.match(mapping)
        own = sum(map(int, _OWN_KIB.findall(mapping)))
        if head and int(head["inode"]) and not own:
            yield int(head["first"], 16), int(head["behind"], 16)


def _peak_kib(pid: int) -> int:
    """0 for a process that has ended meanwhile, or has only its exit code left."""
    with suppress(OSError):
        if found := _MARK.search((_PROC / str(pid) / "status").read_text(encoding="utf-8")):
            return int(found[1])
    return 0
