"""Where published weights come from: the base model with its licence, and what was made of what in the run."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from huggingface_hub import HfApi, hf_hub_download, metadata_load, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, HTTPError
from omegaconf import DictConfig

from experiments.publishing.privacy import belongs_here
from rzero.adapters import base_of, holds_adapters
from rzero.runs.weights import Weights

UNKNOWN = "unknown"
"""The hub's own word for a licence that nobody named."""
PATIENCE_S = 10.0
"""Seconds to wait for the hub's list of files."""
_HUB_ID = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")
_CARD = "README.md"
_LICENCE_FILES = ("LICENSE", "LICENSE.md", "LICENSE.txt", "NOTICE", "NOTICE.txt")


@dataclass(frozen=True, slots=True, kw_only=True)
class Licence:
    """As cards name it: `id` is the hub's short name, `name` and `link` go with `other`; `files` travel along."""

    id: str = UNKNOWN
    name: str | None = None
    link: str | None = None
    files: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """The base model: its hub id, or what its directory is called; `hub_id` is None where the hub does not have it."""

    name: str
    hub_id: str | None
    licence: Licence


def read_base(config: DictConfig) -> Base:
    """Returns the base model that a configuration names, with the licence of its card if it has one.

    Raises ValueError when the card is there and cannot be read.
    """
    source = str(config.policy.path_or_id)
    while holds_adapters(os.path.expanduser(source)):
        source = base_of(os.path.expanduser(source))
    path = Path(os.path.expanduser(source))
    if not path.exists() and _HUB_ID.fullmatch(source):
        found = _of_hub(source)
        files = [path for name, path in found.items() if name != _CARD]
        return Base(name=source, hub_id=source, licence=_licence(found.get(_CARD), files))
    name = "a model of its own" if belongs_here(path.name) else path.name
    return Base(name=name, hub_id=None, licence=_licence(path / _CARD, [path / file for file in _LICENCE_FILES]))


def _of_hub(repository: str) -> dict[str, Path]:
    """Card and licence files of the base's repository by name; those in the cache where the hub does not answer."""
    wanted = (_CARD, *_LICENCE_FILES)
    try:
        listed = {file.rfilename for file in HfApi().model_info(repository, timeout=PATIENCE_S).siblings or ()}
        return {name: Path(hf_hub_download(repository, name)) for name in wanted if name in listed}
    except (HTTPError, ConnectionError, EntryNotFoundError):
        cached = {name: try_to_load_from_cache(repository, name) for name in wanted}
        return {name: Path(path) for name, path in cached.items() if isinstance(path, str)}


def _licence(card: Path | None, files: Sequence[Path]) -> Licence:
    there = tuple(path for path in files if path.is_file())
    if card is None or not card.is_file():
        return Licence(files=there)
    try:
        said = metadata_load(card) or {}
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{card}: its metadata cannot be read ({' '.join(str(error).split())})") from error
    named = {key: value for key, value in said.items() if isinstance(value, str)}
    return Licence(
        id=named.get("license") or UNKNOWN, name=named.get("license_name"), link=named.get("license_link"), files=there
    )


def made_of(weights: Weights, *, until: int) -> list[tuple[str, str]]:
    """Returns every artifact of a run up to an iteration with those that it was made of, in the order of the loop."""
    found = []
    for i in range(1, until + 1):
        solver, before = weights.name("solver", i), weights.name("solver", i - 1)
        challenger = weights.name("challenger", i)
        if challenger == f"challenger_{i}":
            found.append((challenger, f"{weights.start_name('challenger', i)}, rewarded by {before}"))
        found.append((f"questions_{i}", f"{challenger}, labelled by {before}"))
        if solver == f"solver_{i}":
            found.append((solver, f"{weights.start_name('solver', i)}, trained on questions_{i}"))
    return found
