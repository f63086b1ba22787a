"""Compare runs: base model against every round, beside what the paper reports for the same model.

    python -m experiments.compare RUN [RUN ...]
    python -m experiments.compare RUN --model Qwen/Qwen3-4B-Base --output outputs/comparison

Prints one table per run (columns that count, gain over the base model with its 95 % interval from a paired bootstrap
over items) and writes compare.json and compare.png into --output (default: the first run's directory).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from matplotlib.figure import Figure
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from evaluation.metrics import Scores, gain
from experiments import PROJECT
from experiments.reporting.data import Run, read_run
from experiments.terminal import print_table
from rzero.durable import write_atomically

PAPER = PROJECT / "experiments" / "paper_results.yaml"


def paper_rows(model: str) -> dict[str, dict[str, float]]:
    """What the paper reports for a model: [column][row] in percent; empty for a model that is not in its table.

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
    """The score of every benchmark and average: the mean of the headline columns, in percent."""
    return {
        name: sum(row[column] for column in scores.headline) / len(scores.headline)
        for name, row in scores.table().items()
    }


def comparison(run: Run, *, model: str | None = None) -> dict[str, Any]:
    """Plain data: rounds with their scores and gains over the base model, and the paper's columns.

    Raises ValueError when the base model or every round lacks an evaluation.
    """
    if run.base is None:
        raise ValueError(f"{run.path}: the base model has not been evaluated; finish the run first")
    rounds = []
    for turn in run.evaluated:
        assert turn.scores is not None
        found = {"name": turn.name, "scores": counted(turn.scores), "overall": turn.scores.overall, "gain": None}
        if turn.iteration:
            found["gain"] = asdict(gain(run.base, turn.scores))
        rounds.append(found)
    written = str(run.settings.get("policy", {}).get("path_or_id", ""))
    named = model or written.rpartition("}/")[2]  # without a folder that only means something where it ran
    return {
        "run": str(run.path),
        "model": named,
        "headline": list(run.base.headline),
        "rounds": rounds,
        "paper": paper_rows(named),
    }


def show(data: Mapping[str, Any], console: Console) -> None:
    """One table: benchmarks and averages by round, then the gains, then the paper's figures."""
    rounds = data["rounds"]
    table = Table(title=escape(f"{data['run']} (mean of {' and '.join(data['headline'])}, percent)"))
    table.add_column("benchmark")
    for turn in rounds:
        table.add_column(turn["name"], justify="right")
    for name in rounds[0]["scores"]:
        table.add_row(name, *(f"{turn['scores'][name]:.2f}" for turn in rounds))
    table.add_row("overall", *(f"{turn['overall']:.2f}" for turn in rounds), style="bold")
    gains = [turn["gain"] for turn in rounds]
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


def draw(found: Sequence[Mapping[str, Any]]) -> Figure:
    """Overall AVG by round of every run with the interval of its gain, and the paper's curve of the same model."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for data in found:
        overall = [turn["overall"] for turn in data["rounds"]]
        errors = [
            [g["points"] - g["low"] if g else 0.0 for g in (turn["gain"] for turn in data["rounds"])],
            [g["high"] - g["points"] if g else 0.0 for g in (turn["gain"] for turn in data["rounds"])],
        ]
        axes.errorbar(range(len(overall)), overall, yerr=errors, marker="o", capsize=3, label=Path(data["run"]).name)
    for model, paper in {data["model"]: data["paper"] for data in found if data["paper"]}.items():
        names = [name for name in paper if name != "untrained Challenger"]
        values = [paper[name]["Overall AVG"] for name in names]
        axes.plot(range(len(values)), values, marker="s", linestyle="--", label=f"paper, {model}")
    longest = max(len(data["rounds"]) for data in found)
    axes.set_xticks(range(longest), ["base", *(f"round {i}" for i in range(1, longest))])
    axes.set_ylabel("overall, percent")
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run directories")
    parser.add_argument("--model", help="the model's name in the paper's table, where the path does not say it")
    parser.add_argument("--output", type=Path, help="where compare.json and compare.png go")
    options = parser.parse_args(arguments)
    console = Console()
    try:
        found = [comparison(read_run(path), model=options.model) for path in options.runs]
        output = options.output or options.runs[0]
        output.mkdir(parents=True, exist_ok=True)
        write_atomically(output / "compare.json", json.dumps(found, indent=1).encode())
        draw(found).savefig(output / "compare.png", dpi=130)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for data in found:
        show(data, console)
    console.print(f"written: {output / 'compare.json'} and compare.png", highlight=False, markup=False, soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
