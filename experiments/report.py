"""A report of one or several runs, finished or not: report.html (self-contained), report.md and the PNGs beside them.

python -m experiments.report outputs/micro/2026-11-22_10-00-00_seed0
python -m experiments.report RUN RUN RUN --output outputs/seeds      # compared, with mean and spread over seeds
python -m experiments.report RUN... --wandb                          # at W&B too; needs tracker=wandb and a key
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from experiments.reporting import content, html, markdown, outline, plots
from experiments.reporting.content import Picture, Section
from experiments.reporting.data import Run, read_run
from rzero.durable import write_atomically


def write_report(runs: Sequence[Path], *, output: Path) -> Path:
    """Write the report of `runs` into the folder `output` and return the path of report.html.

    Raises FileNotFoundError when one of `runs` is no run directory, ValueError when a file in it is damaged, OSError
    when `output` cannot be written.
    """
    if not runs:
        raise ValueError("a report needs at least one run directory")
    read = [read_run(path) for path in runs]
    output.mkdir(parents=True, exist_ok=True)
    sections = _one(read[0], output=output) if len(read) == 1 else _several(read, output=output)
    title = content.title(read)
    write_atomically(output / "report.md", markdown.render(title=title, sections=sections).encode())
    path = output / "report.html"
    write_atomically(path, html.render(title=title, sections=sections, pictures=output).encode())
    return path


PICTURES = {
    "Result": (("accuracy", plots.accuracy, "Accuracy by round"),),
    "The rounds": (
        ("questions", plots.questions, "Question difficulty and pseudo-label accuracy by round"),
        ("agreement", plots.agreement, "Vote agreement in each round with the band shaded"),
    ),
    outline.TRAINING: (
        ("rewards", plots.rewards, "Reward of both roles by training step"),
        ("training", plots.training, "KL and response length of both roles by training step"),
    ),
}
"""File, drawing and description of the pictures under a section of a run."""


def _one(run: Run, *, output: Path, prefix: str = "") -> list[Section]:
    """All sections of a run; its PNGs are written as `<prefix><name>.png`."""

    def drawn(section: Section) -> Section:
        there = [
            Picture(file=f"{prefix}{name}.png", alt=alt)
            for name, draw, alt in PICTURES.get(section.title, ())
            if plots.save(draw, run, path=output / f"{prefix}{name}.png")
        ]
        return replace(section, pictures=there)

    return [drawn(section) for section in outline.of_run(run)]


def _several(runs: Sequence[Run], *, output: Path) -> list[Section]:
    """The comparison first, then every run in full."""
    pictures = [
        Picture(file=f"{name}.png", alt=alt)
        for name, draw, alt in (
            ("comparison", plots.comparison, "Overall by round, one line a run"),
            ("ablation", plots.ablation, "Overall of the last round, one bar a recipe"),
        )
        if plots.save(draw, runs, path=output / f"{name}.png")
    ]
    sections = [replace(outline.compared(runs), pictures=pictures)]
    for number, run in enumerate(runs, start=1):
        sections.append(outline.run_heading(run, number=number))
        sections += _one(run, output=output, prefix=f"run{number}_")
    return sections


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit codes: 0 written, 2 a wrong path or a damaged file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="directory of a run")
    parser.add_argument("--output", type=Path, help="folder of the report; default: the run itself, if there is one")
    parser.add_argument("--wandb", action="store_true", help="save it as a report at Weights & Biases as well")
    options = parser.parse_args(arguments)
    if options.output is None and len(options.runs) > 1:
        parser.error("several runs need --output DIR for their common report")
    try:
        path = write_report(options.runs, output=options.output or options.runs[0])
        print(f"report: {path}")
        if options.wandb:
            print(f"W&B: {_saved_at_wandb(options.runs)}")
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _saved_at_wandb(runs: Sequence[Path]) -> str:
    """The address of the report there, or why it is on this machine only."""
    from experiments.reporting import wandb_report

    try:
        return wandb_report.save([read_run(path) for path in runs])
    except wandb_report.NotSaved as reason:
        return f"not saved, {reason}; the same content is in the report above"


if __name__ == "__main__":
    sys.exit(main())
