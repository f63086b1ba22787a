"""Every command in README.md, docs/, conf/, sweeps/ and every --help composes or parses; the cheap ones run."""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import hydra
import pytest
from experiments.__main__ import commands as listed
from experiments.command_line import expand_policy, without_config_dir
from experiments.compose import compose
from hydra.core.override_parser.overrides_parser import OverridesParser

PROJECT = Path(__file__).resolve().parent.parent
PAGES = [
    *(PROJECT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    *(PROJECT / "docs").glob("*.md"),
]
PAGES += [PROJECT / "experiments" / "README.md", *sorted((PROJECT / "experiments" / "models").glob("*/README.md"))]
CONFIGS = sorted(path for folder in ("conf", "sweeps") for path in (PROJECT / folder).rglob("*.yaml"))
NAMES = [name for name, _ in listed()]
HYDRA = {"run": "config", "pretrain": "pretrain"}
"""Commands that are Hydra's own applications, with the file they compose."""
COMMAND = re.compile(r"python -m (experiments(?:\.\w+)*)((?: [^`\n]*)?)")


class Enough(BaseException):
    """A command has read its arguments and composed its configuration: the rest would be work."""


@cache
def help_of(name: str) -> str:
    """What `python -m experiments.<name> --help` prints."""
    module = f"experiments.{name}" if name else "experiments"
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"], capture_output=True, text=True, cwd=PROJECT, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def in_pages() -> Iterator[str]:
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        yield from re.findall(r"^python -m experiments.*$", text, re.MULTILINE)
        yield from re.findall(r"`(python -m experiments[^`]*)`", text)


def in_configs() -> Iterator[str]:
    for path in CONFIGS:
        for comment in re.findall(r"#(.*)$", path.read_text(encoding="utf-8"), re.MULTILINE):
            yield from (match.group().strip() for match in COMMAND.finditer(comment.partition("`, ")[0]))


def in_help(text: str) -> Iterator[str]:
    yield from (
        match.group().strip() for match in re.finditer(r"^ *(?:nohup )?(python -m experiments.*)$", text, re.MULTILINE)
    )


def words_of(command: str) -> list[str]:
    """The words of a command without `python -m`, its comment and what only a shell reads."""
    words = shlex.split(command.partition(" # ")[0].partition("  #")[0].partition(" > ")[0])
    return words[words.index("-m") + 1 :]


def check(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, *arguments = words_of(command)
    name = module.removeprefix("experiments").lstrip(".")
    assert name.partition(".")[0] in ("", *NAMES), f"no such command: {command}"
    if name in HYDRA:
        compose_as_hydra(HYDRA[name], arguments)
    elif {"--help", "-h"} & set(arguments) or not name:
        assert help_of(name)
    else:
        parse(module, arguments, monkeypatch)


def compose_as_hydra(config: str, arguments: Sequence[str]) -> None:
    """Compose the overrides of an application of Hydra's; of several values of a sweep, each once."""
    config_dir, others = without_config_dir(list(arguments))
    flags = {"-m", "--multirun", "--help", "--cfg", "job", "--hydra-help"}
    given = [word for word in others if word not in flags]
    overrides = expand_policy(given, config_dir=config_dir) if config == "config" else given
    parsed = OverridesParser.create().parse_overrides(overrides)
    longest = max((len(list(o.sweep_string_iterator())) for o in parsed if o.is_sweep_override()), default=1)
    for index in range(longest):
        chosen = [
            f"{o.get_key_element()}={values[min(index, len(values) - 1)]}"
            if (values := values_of(o))
            else str(o.input_line)
            for o in parsed
        ]
        compose(*chosen, config=config)


def values_of(override: Any) -> list[str]:
    return list(override.sweep_string_iterator()) if override.is_sweep_override() else []


def parse(module: str, arguments: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Read the arguments as the command does and compose what it composes; nothing else of it runs."""
    read, composed = argparse.ArgumentParser.parse_args, hydra.compose

    def parse_args(self: argparse.ArgumentParser, *given: Any, **more: Any) -> argparse.Namespace:
        options = read(self, *given, **more)
        if hasattr(options, "overrides"):
            return options
        raise Enough

    def compose_once(*given: Any, **more: Any) -> None:
        composed(*given, **more)
        raise Enough

    with monkeypatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
        patch.setattr(hydra, "compose", compose_once)
        found = importlib.import_module(module)
        if hasattr(found, "__path__"):
            found = importlib.import_module(f"{module}.__main__")
        with pytest.raises(Enough):
            found.main(list(arguments))


WRITTEN = sorted({*in_pages(), *in_configs()})


def test_there_are_commands_to_check() -> None:
    assert len(WRITTEN) > 60
    assert {"run", "report", "browse", "evaluate", "plan", "results", "reproduce"} <= set(NAMES)


@pytest.mark.parametrize("command", WRITTEN)
def test_written_commands_compose(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check(command, monkeypatch)


@pytest.mark.parametrize("name", NAMES)
def test_every_help_names_commands_that_compose(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for command in in_help(help_of(name)):
        check(command, monkeypatch)
