"""All tables and figures of the paper.

python -m experiments.reproduce --list                    # claims, commands and what has been run
python -m experiments.reproduce main_table scale=micro
python -m experiments.reproduce all scale=micro           # everything, one after the other
python -m experiments.reproduce --readme                  # write the verdicts of what has been run into docs/results.md
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from rich.console import Console

from experiments import readme
from experiments.reproduce.command import (
    NAMES,
    USAGE,
    Options,
    claims,
    command_line,
    read_options,
    run,
    state,
    studies,
)
from experiments.reproduce.writing import CLAIM_HEADER, claim_row, table


def show(options: Options, console: Console) -> None:
    """Every study with its state and command, and every claim with its verdict once there is one."""
    for study in studies():
        now = state(study, options)
        found = claims(study, options) if now == "done" else []
        lines = [f"{study.name}: {study.title}", f"  state    {now}", f"  command  {command_line(study, options)}"]
        for claim in study.claims:
            lines.append(f"  claim    {claim.text} (paper: {claim.paper})")
            lines += [f"           {e['model']}: {e['verdict']}" for e in found if e["claim"] == claim.text]
        console.print("\n".join(lines) + "\n", highlight=False, markup=False, soft_wrap=True)


def verdicts() -> str:
    """Every claim that has been put to the test, as docs/results.md has it; each study is linked to its folder."""
    options, rows = Options(), []
    for study in studies():
        if state(study, options) == "done":
            folder = os.path.relpath(options.folder(study), readme.RESULTS.parent)
            link = f"[{study.name}]({folder}/table.md)"
            rows += [[link, *claim_row(entry)] for entry in claims(study, options)]
    return table(("study", *CLAIM_HEADER), rows, mark="---")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.reproduce",
        description=__doc__,
        epilog=USAGE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--list", action="store_true", help="show claims, commands and states, and run nothing")
    parser.add_argument(
        "--readme", action="store_true", help="write the verdicts of what has been run into docs/results.md"
    )
    parser.add_argument("name", nargs="?", metavar="STUDY", help=f"all, or one of {', '.join(NAMES)}")
    parser.add_argument("settings", nargs="*", metavar="key=value")
    options = parser.parse_args(arguments)
    settings = options.settings
    if options.list:
        show(read_options([*([options.name] if options.name else []), *settings]), Console())
        return 0
    if options.readme:
        readme.update("claims", verdicts())
        return 0
    if options.name not in (*NAMES, "all"):
        parser.error(f"name a study, or all: {', '.join(NAMES)}")
    return run([study for study in studies() if options.name in ("all", study.name)], settings)


if __name__ == "__main__":
    sys.exit(main())
