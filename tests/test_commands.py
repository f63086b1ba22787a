"""Every command in README.md, docs/, conf/, sweeps/ and every --help composes or parses; the cheap ones run."""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout, suppress
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

import hydra
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from experiments.__main__ import commands as listed
from experiments.command_line import UNMET, expand_policy, without_config_dir
from experiments.compose import compose
from experiments.paths import spelled
from experiments.sweeping.places import is_sweep
from tests.test_tutorial import blocks

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
PLACEHOLDERS = {"KIND": "votes", "NAME": "rewards", "STUDY": "main_table"}
"""Words of usage lines that stand for one of a few; any path and any number may stand for itself."""
NO_KEYS = {"group", "key", "hardware", "model_size", "seeds", "weights_only", "x"}
"""What stands before = in running text and is no key of `experiments.run`."""
CHEAP = re.compile(r"python -m experiments(\.plan (?!.*--simulate).*|\.reproduce --list)?")
"""Commands that take no longer to run than to check."""


class Enough(BaseException):
    """A command has read its arguments and composed its configuration: the rest would be work."""


@cache
def help_of(name: str) -> str:
    """What `python -m experiments.<name> --help` prints."""
    if name in HYDRA:
        command = [sys.executable, "-m", f"experiments.{name}", "--help"]
        return subprocess.run(command, capture_output=True, text=True, cwd=PROJECT, check=True).stdout
    with redirect_stdout(StringIO()) as said, suppress(SystemExit):
        assert entry(f"experiments.{name}".rstrip(".")).main(["--help"]) == 0
    return said.getvalue()


def entry(module: str) -> Any:
    """What `python -m <module>` executes."""
    found = importlib.import_module(module)
    return importlib.import_module(f"{module}.__main__") if hasattr(found, "__path__") else found


def texts() -> Iterator[str]:
    """Pages with continued lines joined."""
    for page in PAGES:
        yield re.sub(r"\\\n\s*", " ", page.read_text(encoding="utf-8"))


def written() -> Iterator[str]:
    """Commands of the pages, in blocks of their own or inline, and of comments in conf/ and sweeps/."""
    for text in texts():
        yield from re.findall(r"^python -m experiments.*$", text, re.MULTILINE)
        yield from re.findall(r"`(python -m experiments[^`]*)`", text)
    for path in CONFIGS:
        for comment in re.findall(r"#(.*)$", path.read_text(encoding="utf-8"), re.MULTILINE):
            yield from re.findall(r"python -m experiments[^`(]*", comment)


def shown() -> dict[str, list[str]]:
    """Commands of the pages with the lines of their output that stand in a block of text below."""
    pairs = re.compile(r"```bash\n(python -m experiments.*)\n```\n```text\n([^`]*)```")
    return {stripped(command): lines.splitlines() for text in texts() for command, lines in pairs.findall(text)}


def overrides() -> Iterator[str]:
    """`key=value` and `group=option` in running text; `<name>` and three dots stand for something."""
    for text in texts():
        for code in re.findall(r"`([a-z][\w/@.]*=[^`<>]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
            yield from (word for word in code.split() if word.partition("=")[0] not in NO_KEYS and "..." not in word)


def in_help(text: str) -> Iterator[str]:
    yield from re.findall(r"^ *(?:nohup )?(python -m experiments.*)$", text, re.MULTILINE)


def stripped(command: str) -> str:
    """A command without its comment, without what only a shell reads, and with its options in brackets."""
    return re.sub(r"\[(--[\w-]+)\]", r"\1", re.split(r" #|   | > ", command)[0]).strip()


def check(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, *arguments = (PLACEHOLDERS.get(word, word) for word in shlex.split(stripped(command))[2:])
    name = module.removeprefix("experiments").lstrip(".")
    assert name.partition(".")[0] in ("", *NAMES), f"no such command: {command}"
    if name in HYDRA:
        compose_as_hydra(HYDRA[name], arguments)
    elif {"--help", "-h"} & set(arguments) or not name or not arguments:  # a bare name is a mention
        assert help_of(name)
    else:
        parse(module, arguments, monkeypatch)


def compose_as_hydra(config: str, arguments: Sequence[str]) -> None:
    """Compose the overrides of an application of Hydra's; of several values of a sweep, each once."""
    config_dir, others = without_config_dir(list(arguments))
    flags = {"-m", "--multirun", "--help", "--cfg", "job", "--hydra-help"}
    given = [word for word in others if word not in flags]
    several = is_sweep(others)
    overrides = expand_policy(given, config_dir=config_dir, several=several) if config == "config" else given
    overrides = spelled(overrides, several=several)
    parsed = OverridesParser.create().parse_overrides(overrides)
    longest = max((len(list(o.sweep_string_iterator())) for o in parsed if o.is_sweep_override()), default=1)
    for index in range(longest):
        chosen = [
            f"{o.get_key_element()}={values[min(index, len(values) - 1)]}"
            if (values := values_of(o))
            else str(o.input_line)
            for o in parsed
        ]
        compose(*chosen, config=config, config_dir=config_dir)


def values_of(override: Any) -> list[str]:
    return list(override.sweep_string_iterator()) if override.is_sweep_override() else []


def parse(module: str, arguments: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Read the arguments as the command does and compose what it composes; nothing else of it runs."""
    composed = hydra.compose

    def reading(name: str) -> Callable[..., argparse.Namespace]:
        read = getattr(argparse.ArgumentParser, name)

        def read_and_stop(self: argparse.ArgumentParser, *given: Any, **more: Any) -> argparse.Namespace:
            options: argparse.Namespace = read(self, *given, **more)
            if hasattr(options, "overrides"):
                return options
            raise Enough

        return read_and_stop

    def compose_once(*given: Any, **more: Any) -> None:
        composed(*given, **more)
        raise Enough

    with monkeypatch.context() as patch:
        for name in ("parse_args", "parse_intermixed_args"):
            patch.setattr(argparse.ArgumentParser, name, reading(name))
        patch.setattr(hydra, "compose", compose_once)
        with pytest.raises(Enough):
            entry(module).main(list(arguments))


@pytest.fixture(autouse=True)
def folder_of_the_tutorial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where commands with `--config-dir conf` are given."""
    for block in blocks():
        if block.language in ("python", "yaml"):
            block.write(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))


WRITTEN = sorted({stripped(command) for command in written()})


def test_there_are_commands_to_check() -> None:
    assert len(WRITTEN) > 60
    assert {"run", "report", "browse", "evaluate", "plan", "results", "reproduce"} <= set(NAMES)
    assert set(shown()) <= {command for command in WRITTEN if CHEAP.fullmatch(command)}
    assert len(shown()) > 4


@pytest.mark.parametrize("command", WRITTEN)
def test_written_commands_compose(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check(command, monkeypatch)


@pytest.mark.parametrize("name", NAMES)
def test_every_help_names_commands_that_compose(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for command in in_help(help_of(name)):
        check(command, monkeypatch)


@pytest.mark.parametrize("override", sorted(set(overrides())))
def test_overrides_in_running_text_compose(override: str) -> None:
    compose_as_hydra("config", [override])


@pytest.mark.parametrize("command", [text for text in WRITTEN if CHEAP.fullmatch(text)])
def test_cheap_commands_run(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """They say, among other things, the lines that a page shows below them."""
    module, *arguments = shlex.split(command)[2:]
    assert entry(module).main(arguments) in (0, UNMET)
    said = capsys.readouterr().out
    assert said
    assert not set(shown().get(command, ())) - set(said.splitlines())
