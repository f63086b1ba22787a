"""A report of one or several runs, finished or not: report.html (self-contained), report.md and the PNGs beside them.

python -m experiments.report outputs/micro/2026-11-22_10-00-00_seed0
python -m experiments.report RUN RUN RUN --output outputs/seeds      # compared, with mean and spread over seeds
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from matplotlib.figure import Figure

from experiments.reporting import content, html, markdown, plots, rounds
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


def _one(run: Run, *, output: Path, prefix: str = "") -> list[Section]:
    """All sections of a run; its PNGs are written as `<prefix><name>.png`."""

    def drawn(section: Section, *pictures: tuple[str, Callable[[Run], Figure | None], str]) -> Section:
        there = [
            Picture(file=f"{prefix}{name}.png", alt=alt)
            for name, draw, alt in pictures
            if plots.save(draw, run, path=output / f"{prefix}{name}.png")
        ]
        return replace(section, pictures=there)

    return [
        content.header(run),
        drawn(content.results(run), ("accuracy", plots.accuracy, "Accuracy by round")),
        drawn(
            rounds.rounds(run),
            ("questions", plots.questions, "Question difficulty and pseudo-label accuracy by round"),
            ("agreement", plots.agreement, "Vote agreement in each round with the band shaded"),
        ),
        drawn(
            Section(title="Training"),
            ("rewards", plots.rewards, "Reward of both roles by training step"),
            ("training", plots.training, "KL and response length of both roles by training step"),
        ),
        rounds.examples(run),
        rounds.times(run),
    ]


def _several(runs: Sequence[Run], *, output: Path) -> list[Section]:
    """The comparison first, then every run in full."""
    compared = content.comparison(runs)
    if plots.save(lambda _: plots.comparison(runs), runs[0], path=output / "comparison.png"):
        compared = replace(compared, pictures=(Picture(file="comparison.png", alt="Overall by round, one line a run"),))
    sections = [compared]
    for number, run in enumerate(runs, start=1):
        sections.append(Section(title=f"Run {number}: {run.name}, seed {run.seed}", depth=1))
        sections += _one(run, output=output, prefix=f"run{number}_")
    return sections


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit codes: 0 written, 2 a wrong path or a damaged file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="directory of a run")
    parser.add_argument("--output", type=Path, help="folder of the report; default: the run itself, if there is one")
    options = parser.parse_args(arguments)
    if options.output is None and len(options.runs) > 1:
        parser.error("several runs need --output DIR for their common report")
    try:
        path = write_report(options.runs, output=options.output or options.runs[0])
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"report: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
