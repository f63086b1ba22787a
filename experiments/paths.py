"""Paths and names as people have them, spelled so that hydra reads them as they are.

    policy=/models/o'brien directory=runs/a,b name=2025_12_01     # to hydra: errors, a list, a number

An existing path wins over any other reading. Otherwise a comma separates where several values may stand (a multirun,
`experiments.evaluate`), and what is quoted for hydra already stays as it is. `~` and `${HOME}` are expanded.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException

NAME = "name"
PATHS = frozenset(
    {
        "benchmarks.folder",
        "benchmarks.source.data_dir",
        "directory",
        "hydra.run.dir",
        "hydra.sweep.dir",
        "output",
        "policy.package.directory",
        "policy.path_or_id",
        "resume",
        "tracker.directory",
        "tracker.path",
    }
)
"""Keys whose value is a path, whether it is there already or not. Of another key, a value with / that is there is."""

NOTHING = ("", "null")
"""Values of such a key that say that there is no path."""

_ENVIRONMENT = re.compile(r"(?<!\\)\$\{([A-Z_][A-Z0-9_]*)\}")  # not of a path that is spelled out already
_QUOTED = r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\""
_PART = re.compile(rf"(?:{_QUOTED})(?=,|$)|[^,]*")
_SWEEP = re.compile(r"(choice|glob|interval|range|shuffle|sort|tag)\(.*\)", re.DOTALL)


def spelled(overrides: Sequence[str], *, several: bool = False) -> list[str]:
    """Return overrides whose names and paths hydra reads as they are; other words are returned as they came.

    several: whether a comma separates the values of a multirun.
    """
    return [_spelled(text, several=several) for text in overrides]


def _spelled(override: str, *, several: bool) -> str:
    prefixed, equals, value = override.partition("=")
    key = prefixed.lstrip("+")
    if not equals or override.startswith("-") or (several and _SWEEP.fullmatch(value) and not exists(value)):
        return override
    if key == NAME:
        parts = _separated(value) if several else [value]
        return f"{prefixed}={','.join(quoted(unquoted(part)) for part in parts)}"
    parts = places(value) if several else [value]
    if key not in PATHS:
        there = [exists(part) and ("/" in part or part.startswith("~")) for part in parts]
        return f"{prefixed}={','.join(map(_if, there, parts))}" if any(there) else override
    return f"{prefixed}={','.join(part if part in NOTHING else literal(part) for part in parts)}"


def _if(path: bool, text: str) -> str:
    return literal(text) if path else text


def literal(text: str) -> str:
    """Return a path as people write it as a value of hydra's grammar. Interpolations of one that is not there stay."""
    path = meant(text)
    return quoted(path.replace("${", r"\${") if exists(path) else path)


def meant(text: str) -> str:
    """Return the path that a text stands for: itself where it exists, else without hydra's quotes, `~` expanded."""
    return expanded(text) if exists(text) else expanded(unquoted(text))


def places(text: str) -> list[str]:
    """Return the paths of a list with commas between them: the longest stretches that exist, else the parts.

    `/a/x,y,/a/z` is /a/x,y and /a/z where there is an /a/x,y; so is what is quoted for hydra.
    """
    parts, found = _separated(text), []
    while parts:
        lengths = (n for n in range(len(parts), 1, -1) if exists(",".join(parts[:n])))
        length = next(lengths, 1)
        found.append(",".join(parts[:length]))
        parts = parts[length:]
    return found


def _separated(text: str) -> list[str]:
    """The parts between commas; a comma inside of hydra's quotes separates nothing."""
    parts, position = [], 0
    while position <= len(text):
        part = _PART.match(text, position)
        assert part is not None
        parts.append(part.group())
        position = part.end() + 1
    return parts


def exists(text: str) -> bool:
    """Return whether a text names something on disk, as it stands or expanded."""
    try:
        return bool(text) and os.path.lexists(expanded(text))
    except ValueError:  # a NUL is in no path
        return False


def expanded(text: str) -> str:
    """Return a path with `~` and variables that hold a path (`${HOME}`) in place; one that exists as it is stays."""
    if os.path.lexists(text):
        return text
    return os.path.expanduser(_ENVIRONMENT.sub(_path_in, text))


def _path_in(variable: re.Match[str]) -> str:
    """The value of an environment variable that holds a path; others may be secrets and are left alone."""
    value = os.environ.get(variable[1], "")
    return value if value.startswith("/") else variable[0]


def place(text: str) -> Path:
    """Return an argument that is a path: what a shell does not expand (`--output=~/x`) is expanded here."""
    return Path(expanded(text))


def quoted(text: str) -> str:
    """Return a text as a quoted string of hydra's grammar."""
    return QuotedString(text=text, quote=Quote.single).with_quotes()


def unquoted(text: str) -> str:
    """Return what a quoted string of hydra's grammar holds; any other text as it is."""
    if not re.fullmatch(_QUOTED, text, re.DOTALL):
        return text
    try:
        value = OverridesParser.create().parse_rule(text, "primitive")
    except HydraException:
        return text
    return value.text if isinstance(value, QuotedString) else text
