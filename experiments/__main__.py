"""List the commands with a line each.

    python -m experiments

A line is the first of the command's docstring. Nothing of a command is imported for it.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

FOLDER = Path(__file__).resolve().parent


def commands() -> Iterator[tuple[str, str]]:
    """Yield each command's name and the first line of its docstring, by name."""
    files = {path.stem: path for path in FOLDER.glob("*.py") if path.stem != "__main__"}
    files |= {path.parent.name: path for path in FOLDER.glob("*/__main__.py")}
    for name, path in sorted(files.items()):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if any(isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'" for node in tree.body):
            yield name, (ast.get_docstring(tree) or "").partition("\n")[0]


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit codes: 0 listed, 2 an argument that means nothing here."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given and given not in (["--help"], ["-h"]):
        print(f"error: a command is a module of its own: python -m experiments.{given[0]} --help", file=sys.stderr)
        return 2
    listed = list(commands())
    width = max(len(name) for name, _ in listed)
    print("python -m experiments.<command>; --help says what it takes.\n")
    for name, line in listed:
        print(f"  {name:<{width}}  {line}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
