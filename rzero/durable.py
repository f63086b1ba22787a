"""Writes that either happen completely or not at all, and the proof afterwards that what was written is still there.

Everything a run relies on goes through here: data into a temporary name *in the same directory* (another file system
would make the rename a copy), fsync of every file, rename, fsync of the directory. Leftovers of a process that was
killed have names that `remove_leftovers` knows. A fingerprint (sha256) taken when a stage was committed tells later
whether a file is still that file.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_LEFTOVERS = (".tmp", ".partial", ".old")


def write_atomically(path: Path, data: bytes) -> None:
    """Replaces the file `path` by `data`. Raises OSError with the path in it; the old content is then still there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with new_file(temporary) as file:
            file.write(data)
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise _named(error, path) from error
    sync_directory(path.parent)


@contextmanager
def new_file(path: Path) -> Iterator[io.RawIOBase]:
    """A file to write into that is durable when the context ends (its name is not: sync the directory)."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    try:
        yield _Written(descriptor)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class _Written(io.RawIOBase):
    """The writing end of a descriptor: complete or OSError, never short."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def writable(self) -> bool:
        return True

    def write(self, data: ReadableBuffer) -> int:
        view = memoryview(data).cast("B")
        write_all(self._descriptor, view)
        return len(view)


def write_all(descriptor: int, data: memoryview | bytes) -> None:
    """Writes all of `data`. The kernel may take less at a time, as it does just before a disk is full."""
    view = memoryview(data)
    while view:
        written = os.write(descriptor, view)
        if not written:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        view = view[written:]


def sync_directory(directory: Path) -> None:
    """Makes names inside `directory` durable."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        raise _named(error, directory) from error
    finally:
        os.close(descriptor)


@contextmanager
def new_directory(final: Path) -> Iterator[Path]:
    """A folder to fill. It appears as `final`, whole and durable, when the context ends without an exception.

    A `final` that exists is replaced. Raises OSError with the path in it; nothing of the attempt is left then.
    """
    temporary = final.with_name(f".{final.name}.partial")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        yield temporary
        publish_directory(temporary, final)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise _named(error, final) from error
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def publish_directory(temporary: Path, final: Path) -> None:
    """Renames a completely written directory into place after making all of it durable.

    A `final` that exists is removed only when its successor is durable; a failed rename puts it back.
    """
    for folder, _, names in os.walk(temporary):
        for name in names:
            with open(Path(folder) / name, "rb") as handle:
                os.fsync(handle.fileno())
        sync_directory(Path(folder))
    old = final.with_name(f".{final.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    replaces = final.exists()
    if replaces:
        os.replace(final, old)
    try:
        os.replace(temporary, final)
    except OSError:
        if replaces:
            os.rename(old, final)
        raise
    sync_directory(final.parent)
    shutil.rmtree(old, ignore_errors=True)


def remove_leftovers(directory: Path) -> None:
    """Deletes what writers that were killed left behind. Only for who holds the directory."""
    for folder, names, files in os.walk(directory):
        for name in [name for name in names if name.startswith(".") and name.endswith(_LEFTOVERS)]:
            shutil.rmtree(Path(folder) / name)
            names.remove(name)
        for name in files:
            if name.startswith(".") and name.endswith(_LEFTOVERS):
                (Path(folder) / name).unlink()


def set_aside(directory: Path, names: Iterable[str]) -> None:
    """Moves files of `directory` into its folder `set_aside`, under the names they had; folders left empty go."""
    for name in names:
        path, target = directory / name, directory / "set_aside" / name
        if path.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, target)
        for folder in path.parents:
            if folder == directory or not folder.exists() or any(folder.iterdir()):
                break
            folder.rmdir()


def require_space(directory: Path, needed: int, *, purpose: str) -> None:
    """Raises OSError (no space) before anything is begun for which the disk has too little room. `needed` in bytes."""
    free = shutil.disk_usage(directory).free
    if free < needed:
        message = f"{purpose} needs {needed / 1e6:,.0f} MB of disk, only {free / 1e6:,.0f} MB are free; make room"
        raise OSError(errno.ENOSPC, message, str(directory))


# ------------------------------------------------------------------------------------------------------ fingerprints


def fingerprints(paths: Iterable[Path], *, root: Path) -> dict[str, str]:
    """Returns the sha256 of each file in `paths` (folders with all they hold), by its path from `root`."""
    files = (file for path in paths for file in ([path] if path.is_file() else sorted(path.rglob("*"))))
    return {file.relative_to(root).as_posix(): _sha256(file) for file in files if file.is_file()}


def damage(root: Path, expected: Mapping[str, str]) -> str | None:
    """Returns what is wrong with the first file that is not as its fingerprint says; None when all are intact."""
    for name, digest in expected.items():
        path = root / name
        if not path.is_file():
            return f"{path} is missing"
        if _sha256(path) != digest:
            return f"{path} is not what was written (its sha256 differs)"
    return None


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _named(error: OSError, path: Path) -> OSError:
    """The same error with a path in it: write() and fsync() know none."""
    if error.errno is None or error.filename is not None:
        return error
    return OSError(error.errno, error.strerror or os.strerror(error.errno), str(path))
