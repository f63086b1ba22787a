"""Objects from nodes of the configuration. What a part does not take is one ValueError that names the key."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf

from rzero.types import Json

NUMBERS = {f"{kind}{rest}" for kind in ("int", "float") for rest in ("", " | None")}
"""Annotations, as text, that no word satisfies."""


def check_keys(cfg: DictConfig) -> None:
    """Raises ValueError where any part of a run's configuration holds a key that its `_target_` does not take.

    Nothing is built: a GPU, a vLLM or a data set need not be there.
    """
    parts = OmegaConf.to_container(cfg, resolve=False)
    assert isinstance(parts, dict)
    for name, part in parts.items():
        _check(part, key=str(name), others=("architecture", "package") if name == "policy" else ())


def _check(node: Any, *, key: str, others: tuple[str, ...] = ()) -> None:
    if isinstance(node, list):
        for index, item in enumerate(node):
            _check(item, key=f"{key}[{index}]")
    if not isinstance(node, dict):
        return
    if "_target_" in node:
        _check_call(node, key=key, others=others)
    for name, value in node.items():
        _check(value, key=f"{key}.{name}")


def _check_call(node: Json, *, key: str, others: tuple[str, ...]) -> None:
    target = str(node["_target_"])
    taken = _taken(target, key)
    for name, value in node.items():
        if taken is None or name.startswith("_") or name in others:
            continue
        if name not in taken:
            raise ValueError(f"{key}.{name}: {target} takes no {name}, only {', '.join(taken)}")
        if taken[name] in NUMBERS and isinstance(value, str) and "${" not in value:
            raise ValueError(f"{key}.{name} must be a number, got {value!r}")


@functools.cache
def _taken(target: str, key: str) -> dict[str, str] | None:
    """The keywords of a callable with their annotations as text; None where it takes any."""
    try:
        parameters = inspect.signature(get_object(target)).parameters.values()
    except Exception as error:  # whatever importing somebody's module raises
        raise ValueError(f"{key}._target_: {target} cannot be imported: {_line(error)}") from error
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return {parameter.name: _text(parameter.annotation) for parameter in parameters}


def _text(annotation: Any) -> str:
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    return f"{text[9:-1]} | None" if text.startswith("Optional[") else text.removeprefix("typing.")


def made(cfg: DictConfig, key: str, **offered: Any) -> Any:
    """The object of the node at `key`; a `_partial_` one is called with those of the offered objects that it names.

    Raises ValueError or OSError in one line that names the key.
    """
    with naming(key):
        return call_with(instantiate(OmegaConf.select(cfg, key)), offered)


@contextmanager
def naming(key: str) -> Iterator[None]:
    """Turns what goes wrong while a part is built into one line that names the key of the configuration."""
    try:
        yield
    except InstantiationException as error:
        raise _complaint(error.__cause__ or error, key) from error
    except (TypeError, ValueError) as error:
        raise _complaint(error, key) from error


def call_with(part: Any, offered: Json) -> Any:
    """Finish a partial constructor with the offered objects it names and lacks; anything else is returned as it is.

    What it was given may be partial constructors too: they are finished first.
    """
    if not isinstance(part, functools.partial):
        return part
    wanted = inspect.signature(part.func).parameters
    given = {name: call_with(value, offered) for name, value in part.keywords.items()}
    return part.func(
        *part.args, **given, **{name: value for name, value in offered.items() if name in wanted and name not in given}
    )


def _complaint(error: BaseException, key: str) -> ValueError | OSError:
    text = _line(error)
    named = text if key in text else f"{key}: {text}"
    return OSError(named) if isinstance(error, OSError) else ValueError(named)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
