"""Make the paper's tables and figures.

    python -m experiments.reproduce --list                    # claims, commands and what has been run
    python -m experiments.reproduce main_table scale=micro    # tabulate the runs that are kept
    python -m experiments.reproduce all scale=micro --run     # everything, one after the other, running what is missing
    python -m experiments.reproduce --readme                  # write the verdicts of all that into docs/results.md

Nothing is started without --run: missing runs are named, and the exit code is 1.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Sequence

from rich.console import Console

from experiments import readme
from experiments.command_line import DONE, command_parser, exit_code, say
from experiments.reporting.markdown import markdown_table
from experiments.reproduce.command import (
    NAMES,
    USAGE,
    Options,
    add_settings,
    carry_out,
    claims,
    command_line,
    read_options,
    state,
    studies,
)
from experiments.reproduce.writing import CLAIM_HEADER, claim_row

WITHOUT_RUNS = ("done", "table out of date", "runs finished, no table")
"""States in which the command has no run to start."""


def show(options: Options, console: Console) -> None:
    """Print every study with its state and command, and every claim with its verdict once there is one."""
    kept = functools.cache(options.store().has)
    for study in studies():
        now = state(study, options, kept=kept)
        found = claims(study, options) if now == "done" else []
        command = command_line(study, options) + ("" if now in WITHOUT_RUNS else " --run")
        lines = [f"{study.name}: {study.title}", f"  state    {now}", f"  command  {command}"]
        for claim in study.claims:
            lines.append(f"  claim    {claim.text} (paper: {claim.paper})")
            lines += [f"           {e['model']}: {e['verdict']}" for e in found if e["claim"] == claim.text]
        say("\n".join(lines) + "\n", console=console)


def verdicts() -> str:
    """Return every claim that has been put to the test, as docs/results.md has it, each study with its folder."""
    options, rows = Options(), []
    for study in studies():
        if state(study, options) == "done":
            folder = os.path.relpath(options.folder(study), readme.RESULTS.parent)
            link = f"[{study.name}]({folder}/table.md)"
            rows += [[link, *claim_row(entry)] for entry in claims(study, options)]
    return markdown_table(("study", *CLAIM_HEADER), rows, numeric=False)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = command_parser("experiments.reproduce", __doc__)
    parser.epilog = USAGE
    parser.add_argument("--list", action="store_true", help="show claims, commands and states, and run nothing")
    parser.add_argument(
        "--readme", action="store_true", help="write the verdicts of what has been run into docs/results.md"
    )
    parser.add_argument("name", nargs="?", metavar="STUDY", help=f"all, or one of {', '.join(NAMES)}")
    add_settings(parser)
    given = parser.parse_intermixed_args(arguments)

    def read(*more: str) -> Options:
        return read_options([*more, *given.settings], run=given.run, config_dir=given.config_dir)

    def listed() -> int:
        show(read(*([given.name] if given.name else [])), Console())
        return DONE

    def written() -> int:
        readme.update("claims", verdicts())
        return DONE

    if given.list:
        return exit_code(listed)
    if given.readme:
        return exit_code(written)
    if given.name not in (*NAMES, "all"):
        parser.error(f"name a study, or all: {', '.join(NAMES)}")
    return carry_out([study for study in studies() if given.name in ("all", study.name)], read)


if __name__ == "__main__":
    sys.exit(main())
