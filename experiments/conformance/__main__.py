"""Compare this repository with recorded rows, kind by kind.

    python -m experiments.conformance KIND FILE [--json]

Exit status: 0 when every row agrees (or differs for a documented reason), 1 when a row differs that should not,
2 when the file cannot be read or the kind is not available.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from experiments.command_line import DONE, UNMET, command_parser, exit_code, say
from experiments.conformance.rows import Report
from experiments.paths import place
from experiments.terminal import waiting
from rzero.escaping import terminal_text
from rzero.types import Json

# kind -> the module of this package that holds `check_<kind>(rows, path) -> Report`
MODULES = {
    "votes": "voting",
    "repetition": "rewards",
    "challenger_reward": "rewards",
    "solver_reward": "rewards",
    "curation": "curation",
    "grpo": "grpo",
    "eval_extract": "evaluation",
    "grader": "grading",
    "pairs": "grading",
    "outputs": "grading",
    "same": "equivalence",
    "hostile_answers": "grading",
    "hostile_questions": "grading",
}
SHOWN = 200


def main(arguments: Sequence[str] | None = None) -> int:
    parser = command_parser("experiments.conformance", __doc__)
    parser.add_argument("kind", choices=sorted(MODULES), metavar="KIND", help=", ".join(sorted(MODULES)))
    parser.add_argument("file", type=place, metavar="FILE", help="the rows, one JSON object per line")
    parser.add_argument("--json", action="store_true", help="print one JSON object: rows, agree, allowed, differ, ...")
    options = parser.parse_args(arguments)

    def work() -> int:
        rows, check = read_rows(options.file), checker(options.kind)
        with waiting(f"{options.kind}: {len(rows)} rows", console=Console(stderr=True)):
            report = check(rows, options.file)
        if options.json:
            print(json.dumps(report.as_json(), ensure_ascii=True))
        else:
            show(report, title=f"{options.kind} {options.file}")
        return DONE if report.passed else UNMET

    return exit_code(work)


def read_rows(path: Path) -> list[Json]:
    """The JSON objects of a file, one per line. ValueError names the line that is not one; OSError names the file."""
    rows = []
    # bytes are split, not text: str.splitlines also breaks at U+2028 and friends, which questions contain
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{path}, line {number} is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise ValueError(f"{path}, line {number} holds a {type(row).__name__}; each line must be a JSON object")
        rows.append(row)
    if not rows:
        raise ValueError(f"{path} holds no rows")
    return rows


def checker(kind: str) -> Callable[[list[Json], Path], Report]:
    """The function that checks one kind. ImportError says which module or function is missing."""
    module_name, function_name = f"{__package__}.{MODULES[kind]}", f"check_{kind}"
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name != module_name:
            raise
        raise ImportError(f"kind {kind!r} is not available: there is no module {module_name}") from None
    if not hasattr(module, function_name):
        raise ImportError(f"kind {kind!r} is not available: {module_name} has no function {function_name}")
    function: Callable[[list[Json], Path], Report] = getattr(module, function_name)
    return function


def show(report: Report, *, title: str) -> None:
    """Print every row that differs and why, then the totals; what would act in a model's text is made visible."""
    console = Console()
    for result in report.results:
        if not result.agree:
            verdict = f"differs as documented ({result.allowed})" if not result.wrong else "DIFFERS"
            why = f"{terminal_text(result.id[:SHOWN])}: {verdict}: {terminal_text(result.why[:SHOWN])}"
            say(why, console=console)
    say(f"{title}: {report.summary}", console=console)


if __name__ == "__main__":
    sys.exit(main())
