"""The common part of all commands: exit codes, complaints, arguments and the checks that no constructor makes."""

from __future__ import annotations

import argparse
import os
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from rich import get_console
from rich.console import Console

from experiments import paths
from experiments.compose import options
from experiments.overrides import one_line
from experiments.processes import Terminated, terminable
from rzero.runs.progress import line

DONE, STOPPED, WRONG, FRUITLESS, TERMINATED = 0, 1, 2, 3, 143
"""Exit codes: done; stopped by the user; a wrong value, path or place; nothing was kept or learned; SIGTERM."""

UNMET = 1
"""Exit code of a command that came to its end with the answer no: it does not fit, something differs or is missing."""

EXPECTED = (ValueError, OSError, RuntimeError, ImportError, HydraException, OmegaConfBaseException)
"""Errors of a wrong value, path or place, each with a message that says what to do."""

FULL_ERROR = "HYDRA_FULL_ERROR"
"""The environment variable by which hydra hands its errors on."""

DEBUG = "RZERO_DEBUG"
"""The environment variable that --debug sets, so that processes that a command starts show their tracebacks too."""


def say(text: object, *, console: Console | None = None, style: str | None = None) -> None:
    """Print a line as it is (`rzero.runs.progress.line`)."""
    line(console or get_console(), str(text), style=style)


OWN_MODULE = "; a module of your own lies beside the folder that --config-dir names"


def told(error: object) -> str:
    """Return what to tell of an error: of hydra or OmegaConf one line, of a part that refused a value its words."""
    if isinstance(error, Exception) and not isinstance(error, EXPECTED):
        return f"{type(error).__name__}: {' '.join(str(error).split())} (a fault of this program; --debug shows where)"
    cause = error.__cause__ if isinstance(error, BaseException) else None
    hint = OWN_MODULE if isinstance(cause, ImportError) else ""
    if not isinstance(error, (HydraException, OmegaConfBaseException)):
        return f"{error}{hint}"
    if cause is None or isinstance(cause, (HydraException, OmegaConfBaseException)):
        return one_line(error)
    return " ".join(str(cause).split()) + hint


def complain(error: object) -> None:
    """Print one message for what went wrong on stderr; with --debug the traceback before it."""
    if isinstance(error, BaseException) and os.environ.get(DEBUG):
        traceback.print_exception(error)
    say(f"error: {told(error)}", console=Console(stderr=True), style="bold red")


STOPPED_TEXT = "nothing was written, and the same command starts again"


def exit_code(work: Callable[[], int], *, stopped: str = STOPPED_TEXT) -> int:
    """Return what `work` returns; where it is stopped or something is wrong, one message and the code for it.

    stopped: what becomes of the work then, behind who stopped it.
    """
    try:
        with terminable():
            return work()
    except Terminated:
        complain(f"stopped by SIGTERM; {stopped}")
        return TERMINATED
    except KeyboardInterrupt:
        complain(f"stopped by the user; {stopped}")
        return STOPPED
    except Exception as error:  # the edge of the program: whatever it is, the user gets one line
        complain(error)
        return WRONG


@contextmanager
def hydra_raises() -> Iterator[None]:
    """Let errors of composition reach us while the context lasts, in place of Hydra's several lines and exit code 1."""
    before = os.environ.get(FULL_ERROR)
    os.environ[FULL_ERROR] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[FULL_ERROR]
        else:
            os.environ[FULL_ERROR] = before


class Debug(argparse.Action):
    """`--debug`: from here on errors come with their traceback."""

    def __init__(self, option_strings: Sequence[str], dest: str) -> None:
        super().__init__(option_strings, dest, nargs=0, help="show the traceback of an error, not only its message")

    def __call__(self, *_: Any) -> None:
        os.environ[DEBUG] = "1"


def command_parser(module: str, documentation: str | None) -> argparse.ArgumentParser:
    """Return a parser for `python -m <module>` whose --help is the module's docstring as it is written."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=documentation,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--debug", action=Debug)
    return parser


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """Add what a command takes that composes a configuration: `key=value` overrides and --config-dir.

    Parse with `parse_intermixed_args`, so that options may stand among the overrides.
    """
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="overrides, as experiments.run takes them")
    add_config_dir(parser)


def add_config_dir(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config-dir", type=paths.place, metavar="DIR", help="your own folder of options; its modules lie beside it"
    )


def without_config_dir(arguments: Sequence[str]) -> tuple[Path | None, list[str]]:
    """Return the folder that `--config-dir DIR` (hydra's option, also -cd) names, and the other arguments.

    `--debug` is understood as well, and taken out."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config-dir", "-cd", type=paths.place)
    parser.add_argument("--debug", action=Debug)
    found, others = parser.parse_known_args(list(arguments))
    return found.config_dir, others


WHOLE_NUMBERS: Mapping[str, int] = {
    "seed": 0,
    "iterations": 1,
    "threads": 1,
    "response_tokens": 1,
    "checkpoint_every": 0,
}
"""Keys that belong to the run and to no constructor, and their smallest value."""


def check(cfg: DictConfig, numbers: Mapping[str, int] = WHOLE_NUMBERS) -> None:
    """Raise ValueError naming the key, the value and what it may be. Everything else is checked by its constructor."""
    for key, smallest in numbers.items():
        if isinstance(cfg[key], bool) or not isinstance(cfg[key], int) or cfg[key] < smallest:
            raise ValueError(f"{key} must be a whole number, at least {smallest}, got {cfg[key]!r}")


def expand_policy(arguments: Sequence[str], *, config_dir: Path | None = None, several: bool = False) -> list[str]:
    """Return arguments with `policy=DIR` spelled out for hydra: any directory or hub id that is no option of the group.

    A directory with a model in it wins over an option of its name. several: a comma separates the values of a multirun.
    Raises ValueError for several values elsewhere, and where options and directories are mixed.
    """
    known = options("policy", config_dir=config_dir)
    expanded = []
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key == "policy" and value:
            expanded += _policy(value, known, several=several)
        else:
            expanded.append(argument)
    return expanded


def _policy(value: str, known: Collection[str], *, several: bool) -> list[str]:
    chosen = paths.places(value)
    if len(chosen) > 1 and not several:
        raise ValueError(f"policy={value}: there is no such path, and several values need -m (or experiments.evaluate)")
    options_among = [text in known and not _holds_a_model(Path(text)) for text in chosen]
    if all(options_among):
        return [f"policy={value}"]
    if any(options_among):
        raise ValueError(f"policy={value}: options of conf/policy and directories cannot share a sweep; start one each")
    return ["policy=hf", f"policy.path_or_id={','.join(map(paths.literal, chosen))}"]


def _holds_a_model(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("config.json", "adapter_config.json"))
