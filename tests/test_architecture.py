"""The design that a compiler would not keep: one-way imports, and what must not exist (CONTRIBUTING, "The design")."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import yaml

PROJECT = Path(__file__).resolve().parent.parent
PACKAGES = ("rzero", "evaluation", "experiments")
SOURCES = sorted(path for package in PACKAGES for path in (PROJECT / package).rglob("*.py"))
CONFIGS = sorted(path for folder in ("conf", "sweeps") for path in (PROJECT / folder).rglob("*.yaml"))

LAYERS = (
    {"types", "durable", "escaping", "roles", "seeding", "processes", "sharding", "adapters", "gathering", "repairs"}
    | {"policy", "frozen", "modes"},
    {"interfaces"},
    # text in, numbers out; tensors in, tensors out; a policy loads and saves
    {"prompts", "turns", "boxes", "parsing", "grading", "voting", "repetition", "cells", "rewards"} | {"grpo"},
    {"modules", "engines", "embedding", "acceptance", "curriculum", "opinions", "prices", "roads", "signals", "runs"}
    | {"polls", "tracking", "alarm", "collapse", "policy_check"},
    {"selfplay"},
)
"""What lies in rzero/, lowest first: an import goes to the same layer or to one before it."""

ONLY_IN_EXPERIMENTS = {"hydra", "omegaconf"}

FORBIDDEN_CALLS = {
    "eval": "text must never become code",
    "exec": "text must never become code",
    "parse_expr": "sympy's parser runs eval on its text",
    "sympify": "sympify runs eval on text; build numbers with Integer and Rational",
    "os.system": "a shell reads its text; use subprocess with a list",
    "pickle.load": "unpickling runs code of the file",
    "pickle.loads": "unpickling runs code of the bytes",
    "yaml.load": "use yaml.safe_load",
    "jinja2.Template": "templates are files of this repository, never strings",
    "from_string": "templates are files of this repository, never strings",
}
FORBIDDEN_KEYWORDS = {"trust_remote_code": "runs code of a model's author", "shell": "a shell reads its text"}


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def module(path: Path) -> str:
    parts = path.relative_to(PROJECT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module(path) for path in SOURCES}


def imports(path: Path) -> Iterator[str]:
    """Every imported module in full; `from package import name` gives package.name too when that is a module."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: import by the full name, not relatively"
            assert node.module is not None
            yield node.module
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            yield from names & MODULES


def part(name: str) -> str:
    """`rzero.grading.gate` -> `grading`: the unit that has a layer."""
    return name.split(".")[1]


def layer(name: str) -> int:
    found = [number for number, members in enumerate(LAYERS) if part(name) in members]
    assert found, f"{name} has no layer: add {part(name)!r} to LAYERS in {Path(__file__).name}, as low as it can be"
    return found[0]


def of_rzero(names: Iterator[str]) -> list[str]:
    return [name for name in names if name.startswith("rzero.")]


@pytest.mark.parametrize("path", SOURCES, ids=module)
def test_imports_go_one_way(path: Path) -> None:
    name = module(path)
    roots = {imported.split(".")[0] for imported in imports(path)}
    if name.startswith("rzero"):
        assert not roots & {"evaluation", "experiments", *ONLY_IN_EXPERIMENTS}, (
            "rzero is the method and knows no caller"
        )
    if name.startswith("evaluation"):
        assert not roots & {"experiments", *ONLY_IN_EXPERIMENTS}, "evaluation knows rzero only"
    if name.startswith("rzero."):
        upward = [imported for imported in of_rzero(imports(path)) if layer(imported) > layer(name)]
        assert not upward, f"{name} lies below what it imports"


@pytest.mark.parametrize("package", PACKAGES)
def test_no_circles_among_the_parts_of_a_package(package: str) -> None:
    graph: dict[str, set[str]] = {}
    for path in SOURCES:
        if module(path).startswith(f"{package}."):
            own, inner = part(module(path)), [name for name in imports(path) if name.startswith(f"{package}.")]
            graph.setdefault(own, set()).update(part(name) for name in inner if part(name) != own)
    while free := [name for name, needs in graph.items() if not needs & graph.keys()]:
        for name in free:
            del graph[name]
    assert not graph, f"these import one another in a circle: {sorted(graph)}"


SHAPED = re.compile(r"_?[a-z][a-z0-9_]*_([A-Z0-9]*[A-Z][A-Z0-9]*)")


@cache
def letters() -> set[str]:
    """The first column of the table of tensor letters."""
    _, _, section = (PROJECT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("## Tensor letters")
    rows = re.findall(r"^\|([^|]*)\|", section.partition("\n## ")[0], flags=re.MULTILINE)
    return set(re.findall(r"`([A-Z])`", " ".join(rows)))


@pytest.mark.parametrize("path", SOURCES, ids=module)
def test_shapes_are_written_in_the_letters_of_one_table(path: Path) -> None:
    names = {
        name
        for node in ast.walk(tree(path))
        for name in (getattr(node, "id", None), getattr(node, "arg", None), getattr(node, "attr", None))
        if isinstance(name, str)
    }
    unknown = {
        f"{name}: {letter}"
        for name in names
        if (match := SHAPED.fullmatch(name))
        for letter in match[1]
        if not letter.isdigit() and letter not in letters()
    }
    assert not unknown, 'letters that the table in CONTRIBUTING.md, "Tensor letters", does not have'


@pytest.mark.parametrize("path", SOURCES, ids=module)
def test_nothing_turns_text_into_code(path: Path) -> None:
    for node in ast.walk(tree(path)):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        # `model.eval()` is torch's; a bare name or sympy's function by any path is not
        names = {called} if called.endswith((".eval", ".exec")) else {called, called.rpartition(".")[2]}
        for name in names & FORBIDDEN_CALLS.keys():
            pytest.fail(f"{path}:{node.lineno} calls {called}: {FORBIDDEN_CALLS[name]}")
        for keyword in node.keywords:
            if keyword.arg in FORBIDDEN_KEYWORDS and getattr(keyword.value, "value", None) is True:
                pytest.fail(f"{path}:{node.lineno} sets {keyword.arg}: {FORBIDDEN_KEYWORDS[keyword.arg]}")
        if called == "torch.load":
            safe = [k for k in node.keywords if k.arg == "weights_only" and ast.unparse(k.value) == "True"]
            assert safe, f"{path}:{node.lineno} must say weights_only=True: a checkpoint is a pickle"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(PROJECT)))
def test_no_config_trusts_remote_code(path: Path) -> None:
    def values(node: object) -> Iterator[tuple[object, object]]:
        for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
            yield key, value
            yield from values(value)

    trusted = [value for key, value in values(yaml.safe_load(path.read_text())) if key == "trust_remote_code"]
    assert True not in trusted


def test_what_must_not_exist() -> None:
    names = {path.stem for path in SOURCES}
    assert not names & {"utils", "util", "helpers", "common", "misc"}, "a file has a subject, and its name says which"
    scripts = [path for package in PACKAGES for path in (PROJECT / package).rglob("*.sh")]
    assert not scripts, "logic lives in Python, where it is tested"


def swallows(handler: ast.ExceptHandler) -> bool:
    """Whether it catches everything and hides it; raising it again, translated, is fine, and so is telling the user."""
    broad = handler.type is None or ast.unparse(handler.type) in ("Exception", "BaseException")
    return broad and not any(isinstance(node, ast.Raise) or tells(node, handler.name) for node in ast.walk(handler))


def tells(node: ast.AST, name: str | None) -> bool:
    """Whether it hands an error on to where a command's messages are printed."""
    return isinstance(node, ast.Call) and ast.unparse(node).startswith((f"complain({name})", f"ended({name}, "))


def test_errors_are_swallowed_around_the_grader_only() -> None:
    """Model output is untrusted there, and any failure to read it is a verdict."""
    found = [
        f"{module(path)}:{node.lineno}"
        for path in SOURCES
        if not module(path).startswith("rzero.grading.")
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ExceptHandler) and swallows(node)
    ]
    assert not found
