"""Sending folders to the Hugging Face hub: a repository for each, made first and never written over unasked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HTTPError
from huggingface_hub.utils import disable_progress_bars, validate_repo_id

KINDS = ("solver", "challenger", "questions")


class Unreachable(OSError):
    """The hub does not answer."""


def repositories(target: str) -> dict[str, str]:
    """Returns kind -> `owner/name-kind`. Raises ValueError unless `target` is owner/name as the hub takes it."""
    if target.count("/") != 1:
        raise ValueError(f"--push needs owner/name, got {target!r}")
    named = {kind: f"{target}-{kind}" for kind in KINDS}
    for name in named.values():
        validate_repo_id(name)
    return named


def require_token() -> None:
    """Raises ValueError that says how to log in; nothing has been sent then."""
    if not get_token():
        raise ValueError("--push needs a token of the hub: set HF_TOKEN, or log in with `hf auth login`")


def require_new(names: Mapping[str, str]) -> None:
    """Raises ValueError naming a repository that is there already, Unreachable where nobody answers."""
    api = HfApi()
    for kind, name in names.items():
        with answering():
            there = api.repo_exists(name, repo_type=_type(kind))
        if there:
            raise ValueError(f"{name} exists on the hub already; choose another name, or add to it with --update")


def push(folder: Path, name: str, *, private: bool, update: bool, sent: Callable[[int], None]) -> str:
    """Makes the repository of a folder and commits its files to it in one commit; returns its address.

    sent: called with the bytes of each file that has arrived. Raises OSError in one line when the hub refuses.
    """
    disable_progress_bars()
    api, kind = HfApi(), _type(folder.name)
    with answering():
        address = api.create_repo(name, repo_type=kind, private=private or None, exist_ok=update)
        files = [
            CommitOperationAdd(path_in_repo=path.relative_to(folder).as_posix(), path_or_fileobj=path)
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        ]
        for file in files:  # the large ones travel here, one after the other; the commit then names them
            api.preupload_lfs_files(name, [file], repo_type=kind)
            sent(file.upload_info.size)
        api.create_commit(name, files, commit_message="Published by R-Zero", repo_type=kind)
    return str(address)


def _type(kind: str) -> str:
    return "dataset" if kind == "questions" else "model"


@contextmanager
def answering() -> Iterator[None]:
    """Turns what the hub's client raises into an OSError of one line; `Unreachable` where nobody answers at all."""
    try:
        yield
    except (HfHubHTTPError, RuntimeError) as error:  # of a large file it tells the cause only
        reason = f"{error} {error.__cause__ or ''}"
        raise OSError(f"the hub refuses: {' '.join(reason.split())}") from error
    except (HTTPError, ConnectionError) as error:
        raise Unreachable(
            f"the hub cannot be reached ({' '.join(str(error).split()) or type(error).__name__})"
        ) from error
