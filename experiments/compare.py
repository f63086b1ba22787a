"""Compare runs: base model against every iteration, beside what the paper reports for the same model.

    python -m experiments.compare RUN [RUN ...]
    python -m experiments.compare RUN --model Qwen/Qwen3-4B-Base --output outputs/comparison

Prints one table per run (columns that count, gain over the base model with its 95 % interval from a paired bootstrap
over items) and writes compare.json and compare.png into --output (default: the first run's directory).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import yaml
from matplotlib.figure import Figure
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from evaluation.metrics import Scores, gain
from experiments import PROJECT
from experiments.command_line import DONE, command_parser, exit_code, say
from experiments.paths import place
from experiments.reporting import figures
from experiments.reporting.data import Run, iteration_name, read_run
from experiments.reporting.figures import Line, Point
from experiments.rundir import runs_in
from experiments.terminal import print_table
from rzero.durable import write_atomically
from rzero.types import Json

PAPER = PROJECT / "experiments" / "paper_results.yaml"


def paper_rows(model: str) -> dict[str, dict[str, float]]:
    """Return what the paper reports for a model: [column][row] in percent; empty for a model that is not in its table.

    A model is known by its hub id or by the last part of it, which is how local copies are usually named.
    """
    data = yaml.safe_load(PAPER.read_text(encoding="utf-8"))
    name = model.rstrip("/").rpartition("/")[2].casefold()
    for known, columns in data["models"].items():
        if known.casefold() == model.casefold() or known.rpartition("/")[2].casefold() == name:
            return {
                column: dict(zip(data["rows"], values, strict=True))
                for column, values in zip(data["columns"], columns, strict=True)
            }
    return {}


def counted(scores: Scores) -> dict[str, float]:
    """Return the score of every benchmark and average: the mean of the headline columns, in percent."""
    return {
        name: sum(row[column] for column in scores.headline) / len(scores.headline)
        for name, row in scores.table().items()
    }


def comparison(run: Run, *, model: str | None = None) -> Json:
    """Return plain data: iterations with their scores and gains over the base model, and the paper's columns.

    Raises ValueError when the base model or every iteration lacks an evaluation.
    """
    if run.base is None:
        raise ValueError(f"{run.path}: the base model has not been evaluated; finish the run first")
    iterations = [
        {
            "name": iteration_name(number),
            "scores": counted(scores),
            "overall": scores.overall,
            "gain": asdict(gain(run.base, scores)) if number else None,
        }
        for number, scores in run.scores
    ]
    written = str(run.settings.get("policy", {}).get("path_or_id", ""))
    named = model or written.rpartition("}/")[2]  # without a folder that only means something where it ran
    return {
        "run": str(run.path),
        "model": named,
        "headline": list(run.base.headline),
        "iterations": iterations,
        "paper": paper_rows(named),
    }


def show(data: Json, console: Console) -> None:
    """Print one table: benchmarks and averages by iteration, then the gains, then the paper's figures."""
    iterations = data["iterations"]
    table = Table(title=escape(f"{data['run']} (mean of {' and '.join(data['headline'])}, percent)"))
    table.add_column("benchmark")
    for iteration in iterations:
        table.add_column(iteration["name"], justify="right")
    for name in iterations[0]["scores"]:
        table.add_row(name, *(f"{iteration['scores'][name]:.2f}" for iteration in iterations))
    table.add_row("overall", *(f"{iteration['overall']:.2f}" for iteration in iterations), style="bold")
    gains = [iteration["gain"] for iteration in iterations]
    table.add_row("gain", *(f"{g['points']:+.2f}" if g else "" for g in gains))
    table.add_row("95 % interval", *(f"{g['low']:+.2f} .. {g['high']:+.2f}" if g else "" for g in gains))
    print_table(console, table)
    if not data["paper"]:
        console.print(f"the paper has no row for {data['model']}", highlight=False, markup=False)
        return
    paper = Table(title=f"the paper, {data['model']}")
    paper.add_column("")
    for column in data["paper"]:
        paper.add_column(column, justify="right")
    for row in next(iter(data["paper"].values())):
        paper.add_row(row, *(f"{values[row]:.2f}" for values in data["paper"].values()))
    print_table(console, paper)


def draw(found: Sequence[Json]) -> Figure:
    """Overall AVG by iteration of every run with the interval of its gain, and the paper's curve of the same model."""
    lines = []
    for data in found:
        base = data["iterations"][0]["overall"]
        gains = [iteration["gain"] or {"low": 0.0, "high": 0.0} for iteration in data["iterations"]]
        measured = [
            Point(iteration=number, value=iteration["overall"], low=base + gain["low"], high=base + gain["high"])
            for number, (iteration, gain) in enumerate(zip(data["iterations"], gains, strict=True))
        ]
        lines.append(Line(label=Path(data["run"]).name, points=measured))
    for model, paper in {data["model"]: data["paper"] for data in found if data["paper"]}.items():
        values = [rows["Overall AVG"] for name, rows in paper.items() if name != "untrained Challenger"]
        lines.append(Line(label=f"paper, {model}", points=figures.points(values), dashed=True))
    return figures.by_iteration(lines, ylabel="overall (%)")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = command_parser("experiments.compare", __doc__)
    parser.add_argument("runs", nargs="+", type=place, metavar="RUN", help="runs, or folders of runs")
    parser.add_argument("--model", help="the model's name in the paper's table, where the path does not say it")
    parser.add_argument("--output", type=place, help="where compare.json and compare.png go")
    options = parser.parse_args(arguments)

    def work() -> int:
        found = [comparison(read_run(path), model=options.model) for path in runs_in(options.runs)]
        output = options.output or options.runs[0]
        output.mkdir(parents=True, exist_ok=True)
        write_atomically(output / "compare.json", json.dumps(found, indent=1).encode())
        figures.save(lambda: draw(found), output / "compare.png")
        for data in found:
            show(data, Console())
        say(f"written: {output / 'compare.json'} and compare.png")
        return DONE

    return exit_code(work)


if __name__ == "__main__":
    sys.exit(main())
