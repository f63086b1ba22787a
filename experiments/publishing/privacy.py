"""What must not leave with a publication: paths and addresses of this place, names of its people and machines."""

from __future__ import annotations

import getpass
import json
import os
import re
import socket
from pathlib import Path

from omegaconf import DictConfig

from experiments import PROJECT
from experiments.provenance import WITHHELD, public_config
from experiments.recipe import NOT_THE_RECIPE, modern
from rzero.types import Json

_INTERPOLATION = re.compile(r"\$\{[^}]*\}")
_PATH = re.compile(r"(~|\.{0,2}[/\\]|[A-Za-z]:\\)")
_CONFIGURATIONS = "*config.json"
"""What transformers writes besides weights and tokenizer, whose vocabulary may well hold words such as /home."""


def public_recipe(config: DictConfig) -> Json:
    """Returns the recipe of a run as strangers may see it: interpolations as written, secrets and places withheld."""
    recipe = {key: value for key, value in public_config(modern(config)).items() if key not in NOT_THE_RECIPE}
    return {key: _without_places(value) for key, value in recipe.items()}


def _without_places(node: object) -> object:
    if isinstance(node, dict):
        return {key: _without_places(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_without_places(item) for item in node]
    return WITHHELD if isinstance(node, str) and belongs_here(node) else node


def belongs_here(text: str) -> bool:
    """Whether a value is or holds a path or an address, or is made of the name of a user or a machine."""
    plain = _INTERPOLATION.sub("x", text)  # what stands in an interpolation is not resolved
    if "://" in plain or (_PATH.match(plain) and not re.search(r"\s", plain)) or any(p in plain for p in _places()):
        return True
    words = {word.casefold() for word in re.split(r"[^\w-]+|_", plain)}
    return not re.search(r"\s", plain) and bool(words & _names())  # "the square root" is no user's name


def _places() -> set[str]:
    found = {str(Path.home()), str(Path.cwd()), str(PROJECT)}
    return {place for place in found if len(place) > 1}


def _names() -> set[str]:
    host = socket.gethostname()
    found = {getpass.getuser(), Path.home().name, host, host.partition(".")[0]}
    return {name.casefold() for name in found if len(name) > 1}


def forget_origin(folder: Path) -> None:
    """Removes what transformers may note in configurations about where a model was loaded from."""
    for path in folder.glob(_CONFIGURATIONS):
        data = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(data, dict) and (noted := data.keys() & {"_name_or_path", "name_or_path"}):
            kept = {key: value for key, value in data.items() if key not in noted}
            path.write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def require_nothing_of_here(folder: Path, *, run: Path) -> None:
    """Raises ValueError naming the file where a path of this place stands, in what was written beside weights."""
    places = {*_places(), os.path.abspath(run)}
    for path in (*sorted(folder.glob(_CONFIGURATIONS)), *sorted(folder.glob("*.jinja")), folder / "README.md"):
        text = path.read_text(encoding="utf-8")
        if found := next((place for place in sorted(places) if _stands_in(place, text)), None):
            raise ValueError(f"{folder.name}/{path.name} would tell the path {found}; take it out of the base model")


def _stands_in(place: str, text: str) -> bool:
    return re.search(rf"(?<![\w.-]){re.escape(place)}(?![\w-])", text) is not None
