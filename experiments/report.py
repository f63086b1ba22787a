"""Write the report of one or several runs, finished or not: report.html (self-contained), report.md and PNGs.

python -m experiments.report outputs/micro/2026-11-22_10-00-00_seed0
python -m experiments.report RUN RUN RUN --output outputs/seeds      # compared, with mean and spread over seeds
python -m experiments.report outputs/micro                           # all runs in a folder, likewise; written into it
python -m experiments.report RUN... --wandb                          # at W&B too; needs tracker=wandb and a key
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from experiments.command_line import DONE, command_parser, exit_code, say
from experiments.paths import place
from experiments.reporting import content, figures, html, markdown, outline, plots
from experiments.reporting.content import Picture, Section
from experiments.reporting.data import Run, read_run
from experiments.rundir import runs_in
from experiments.terminal import progress
from rzero.durable import write_atomically


def write_report(runs: Sequence[Path], *, output: Path) -> Path:
    """Write the report of `runs` into the folder `output` and return the path of report.html.

    Raises FileNotFoundError when one of `runs` is no run directory, ValueError when a file in it is damaged, OSError
    when `output` cannot be written.
    """
    if not runs:
        raise ValueError("a report needs at least one run directory")
    read = []
    with progress("reading", total=len(runs)) as meter:
        for path in runs:
            read.append(read_run(path))
            meter.advance(path.name)
    output.mkdir(parents=True, exist_ok=True)
    sections = _one(read[0], output=output) if len(read) == 1 else _several(read, output=output)
    title = content.title(read)
    write_atomically(output / "report.md", markdown.render(title=title, sections=sections).encode())
    path = output / "report.html"
    write_atomically(path, html.render(title=title, sections=sections, pictures=output).encode())
    return path


def _one(run: Run, *, output: Path, prefix: str = "") -> list[Section]:
    """Return all sections of a run; its PNGs are written as `<prefix><name>.png`."""

    def drawn(section: Section) -> Section:
        there = [drawing for drawing in plots.OF_RUN.get(section.id, ()) if drawing.there(run)]
        for drawing in there:
            figures.save(partial(drawing.draw, run), output / f"{prefix}{drawing.name}.png")
        return replace(section, pictures=[Picture(file=f"{prefix}{d.name}.png", alt=d.alt) for d in there])

    return [drawn(section) for section in outline.of_run(run)]


def _several(runs: Sequence[Run], *, output: Path) -> list[Section]:
    """Return the comparison first, then every run in full."""
    there = [drawing for drawing in plots.OF_SEVERAL if drawing.there(runs)]
    for drawing in there:
        figures.save(partial(drawing.draw, runs), output / f"{drawing.name}.png")
    sections = [replace(outline.compared(runs), pictures=[Picture(file=f"{d.name}.png", alt=d.alt) for d in there])]
    with progress("report", total=len(runs)) as meter:
        for number, run in enumerate(runs, start=1):
            sections.append(outline.run_heading(run, number=number))
            sections += _one(run, output=output, prefix=f"run{number}_")
            meter.advance(run.path.name)
    return sections


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit codes: 0 written, 2 a wrong path or a damaged file."""
    parser = command_parser("experiments.report", __doc__)
    parser.add_argument("runs", nargs="+", type=place, metavar="RUN", help="directory of a run, or a folder of runs")
    parser.add_argument("--output", type=place, help="folder of the report; default: the one that is given")
    parser.add_argument("--wandb", action="store_true", help="save it as a report at Weights & Biases as well")
    options = parser.parse_args(arguments)
    if options.output is None and len(options.runs) > 1:
        parser.error("several runs need --output DIR for their common report")

    def work() -> int:
        runs = runs_in(options.runs)
        say(f"report: {write_report(runs, output=options.output or options.runs[0])}")
        if options.wandb:
            say(f"W&B: {_saved_at_wandb(runs)}")
        return DONE

    return exit_code(work)


def _saved_at_wandb(runs: Sequence[Path]) -> str:
    """The address of the report there, or why it is on this machine only."""
    from experiments.reporting import wandb_report

    try:
        return wandb_report.save([read_run(path) for path in runs])
    except wandb_report.NotSaved as reason:
        return f"not saved, {reason}; the same content is in the report above"


if __name__ == "__main__":
    sys.exit(main())
