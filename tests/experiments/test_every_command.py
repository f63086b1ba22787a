"""Every command, found in the package, is given what people give by mistake: a code, a line, never a traceback."""

from __future__ import annotations

import argparse
import ast
import io
import runpy
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from experiments import PROJECT
from experiments.command_line import STOPPED, WRONG
from experiments.paths import place
from tests.experiments.runs import finished_run

LINES = 3
"""The most that a command says on stderr beside argparse's usage."""


def modules() -> Iterator[str]:
    """Everything that `python -m` starts."""
    for path in sorted((PROJECT / "experiments").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if any(isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'" for node in tree.body):
            yield ".".join(path.relative_to(PROJECT).with_suffix("").parts).removesuffix(".__main__")


MODULES = list(modules())


class Enough(BaseException):
    """The arguments are read and nothing is wrong with them: the rest would be work."""


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """What is said on stderr, without argparse's usage."""
        lines = self.err.splitlines()
        if self.err.startswith("usage:"):
            lines = lines[next(number for number, line in enumerate(lines) if ": error: " in line) :]
        return lines


def give(module: str, *arguments: str) -> Said:
    """`python -m MODULE ARGUMENTS` in this process."""
    out, err, before = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = [module, *arguments]
    code: object = 0
    try:
        with redirect_stdout(out), redirect_stderr(err), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*found in sys.modules", category=RuntimeWarning)
            runpy.run_module(module, run_name="__main__", alter_sys=False)
    except SystemExit as stop:
        code = stop.code
    finally:
        sys.argv = before
    return Said(code=int(str(code or 0)), out=out.getvalue(), err=err.getvalue())


def refused(module: str, *arguments: str) -> None:
    said = give(module, *arguments)
    what = f"python -m {module} {' '.join(arguments)}\n{said.out}{said.err}"
    assert said.code == WRONG, what
    assert 1 <= len(said.lines) <= LINES, what
    assert "Traceback" not in said.err, what
    assert "a fault of this program" not in said.err, what


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with a file in it; no test may start any work."""
    (tmp_path / "file").write_text("no folder")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))


def parser_of(module: str, monkeypatch: pytest.MonkeyPatch) -> argparse.ArgumentParser | None:
    """The parser of a command; None where hydra reads the arguments."""
    found: list[argparse.ArgumentParser] = []

    def keep(self: argparse.ArgumentParser, *_: Any, **__: Any) -> None:
        found.append(self)
        raise Enough

    with monkeypatch.context() as patch:
        for name in ("parse_args", "parse_intermixed_args"):
            patch.setattr(argparse.ArgumentParser, name, keep)
        try:
            give(module)
        except Enough:
            return found[0]
    return None


HYDRA = ("experiments.run", "experiments.pretrain")
"""Hydra's own applications, which begin to work when they are given nothing."""
LIST = "experiments"
"""The list of the commands, which reads no arguments."""


def options_of(module: str, monkeypatch: pytest.MonkeyPatch) -> list[argparse.Action]:
    parser = None if module in (*HYDRA, LIST) else parser_of(module, monkeypatch)
    return list(parser._actions) if parser else []


def takes_overrides(actions: Sequence[argparse.Action]) -> bool:
    return any(action.metavar == "key=value" for action in actions)


def filled(actions: Sequence[argparse.Action], run: str, *, instead: argparse.Action | None = None) -> list[str]:
    """What a command cannot do without, but for one of them."""
    given = []
    for action in actions:
        if action.option_strings or action is instead or action.nargs == "*" or action.metavar == "key=value":
            continue
        if action.choices:
            given.append(str(next(iter(action.choices))))
        elif action.metavar in ("RUN", "FILE"):
            given.append(run)
        elif action.metavar == "STUDY":
            given.append("main_table")
        else:
            given.append("micro")
    return given


def test_every_entry_point_is_known() -> None:
    assert {*HYDRA, LIST} < set(MODULES)
    assert len(MODULES) > 20


@pytest.mark.parametrize("module", MODULES)
def test_help_is_printed(module: str) -> None:
    said = give(module, "--help")
    assert (said.code, said.err) == (0, "")
    assert module in said.out
    assert "--debug" in said.out or module == LIST


@pytest.mark.parametrize("module", MODULES)
def test_unknown_options_keys_and_wrong_types_are_refused(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    actions = options_of(module, monkeypatch)
    needed = filled(actions, "run")
    refused(module, *needed, "--nonsense")
    for action in actions:
        if action.type in (int, float) or (action.option_strings and action.type not in (None, place)):
            refused(module, *needed, action.option_strings[0], "many")
        if action.choices:
            refused(module, *([action.option_strings[0], "nonsense"] if action.option_strings else ["nonsense"]))
    if module in HYDRA or takes_overrides(actions):
        for wrong in ("nonsense.key=1", "nonsense", "seed=many", "scale=nonsense", "=", "seed=[1"):
            refused(module, *needed, wrong)


@pytest.mark.parametrize("module", MODULES)
def test_missing_paths_and_files_in_the_place_of_folders_are_refused(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = str(finished_run(tmp_path / "run", seed=0).path)
    actions = options_of(module, monkeypatch)
    before = {path.name for path in tmp_path.iterdir()}
    for action in actions:
        if action.type is not place:
            continue
        needed = filled(actions, run, instead=action)
        for wrong in ("nowhere/at all", "file", "\0"):
            if not action.option_strings:
                refused(module, *needed, wrong)
            elif wrong == "file" or action.dest == "config_dir":  # a folder to write into may be missing
                refused(module, *needed, *overrides_for(actions), action.option_strings[0], wrong)
    if module in HYDRA:
        for wrong in ("nowhere", "file"):
            refused(module, "--config-dir", wrong)
    assert {path.name for path in tmp_path.iterdir()} == before


def overrides_for(actions: Sequence[argparse.Action]) -> list[str]:
    return ["seed=1"] if takes_overrides(actions) else []


@pytest.mark.parametrize("module", [name for name in MODULES if name not in HYDRA])
def test_without_arguments_a_command_prints_works_or_is_refused(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read: Callable[..., Any] = argparse.ArgumentParser.parse_known_args

    def stop(self: argparse.ArgumentParser, *given: Any, **more: Any) -> Any:
        options = read(self, *given, **more)
        if not any(action.nargs == "?" or action.metavar == "key=value" for action in self._actions):
            raise Enough
        return options

    monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", stop)
    monkeypatch.setattr("experiments.reproduce.command.reproduce", enough)
    try:
        said = give(module)
    except Enough:
        return
    assert said.code in (0, WRONG)
    assert len(said.lines) <= LINES
    assert said.out or said.err


def enough(*_: Any, **__: Any) -> None:
    raise Enough


QUICK = """
import contextlib, io, runpy, sys, warnings
warnings.filterwarnings("ignore")
for module, *arguments in MODULES:
    sys.argv = [module, *arguments]
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
        runpy.run_module(module, run_name="__main__")
    print(module, *sorted({"torch", "transformers"} & set(sys.modules)))
"""


def test_help_and_kept_results_are_said_without_what_is_slow_to_import() -> None:
    """In one process of its own, so that each has to do with what those before it have imported."""
    asked = [*([module, "--help"] for module in MODULES), ["experiments.results", "micro", "--json"]]
    code = QUICK.replace("MODULES", repr(asked))
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [module for module, *_ in asked], done.stderr


LONG = {
    "experiments.analyse": ("reporting.data.read_run", ["RUN"]),
    "experiments.bench": ("bench.memory.run", ["memory"]),
    "experiments.compare": ("reporting.data.read_run", ["RUN"]),
    "experiments.conformance": ("conformance.voting.check_votes", ["votes", "ROWS"]),
    "experiments.evaluate": ("composition.require_weights", ["policy=micro"]),
    "experiments.export": ("reporting.data.read_run", ["RUN"]),
    "experiments.dry_run": ("composition.build", ["policy=qwen3_4b_base", "prompts=default"]),
    "experiments.model_package": ("model_package.ModelPackage.provide", ["smollm2_135m"]),
    "experiments.pretrain": ("pretraining.pretrain", ["name=try"]),
    "experiments.report": ("reporting.data.read_run", ["RUN"]),
    "experiments.reproduce.main_table": ("runs.execute", ["output=results", "seeds=7", "--run"]),
    "experiments.results": ("runs.execute", ["micro", "--seeds", "7", "--run"]),
    "experiments.run": ("composition.build", []),
    "experiments.soak": ("composition.build", []),
    "experiments.torture": ("composition.build", []),
}
"""Commands that may take long -> what is interrupted in them, and what they are given."""


@pytest.mark.parametrize("module", LONG)
def test_ctrl_c_says_how_to_go_on(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = finished_run(tmp_path / "run", seed=0).path
    (tmp_path / "rows").write_text("{}\n")
    place, given = LONG[module]
    monkeypatch.setattr("experiments.runs.WORK", tmp_path / "work")
    monkeypatch.setattr("experiments.runs.STORE", tmp_path / "store")
    monkeypatch.setattr(f"experiments.{place}", stopped_by_the_user)
    said = give(module, *(text.replace("RUN", str(run)).replace("ROWS", str(tmp_path / "rows")) for text in given))
    assert said.code == STOPPED, said.err
    assert len(said.lines) <= LINES
    assert "stopped by the user" in said.err
    assert "the same command" in said.err or "go on with: python -m experiments.run resume=" in said.err


def stopped_by_the_user(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt
