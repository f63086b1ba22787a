"""The result table of an experiment with its controls, from finished runs or by running them.

    python -m experiments.results micro --seeds 0 1 2            # print the committed results
    python -m experiments.results micro --seeds 0 1 2 --json
    python -m experiments.results micro --fresh --jobs 2         # run everything again (micro: about an hour)
    python -m experiments.results micro --fresh --save           # ... and commit the figures to experiments/results/

Finished runs are looked for in experiments/results/<name>/<arm>/seed<k>/ (small files in the repository: configuration,
manifest, scores, metrics by round). A run whose configuration is not today's does not count as finished. Missing runs
are written to outputs/results/; a run that was stopped goes on from there.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.table import Table

from evaluation.metrics import gain, spread
from experiments import readme
from experiments.reproduce.arms import FORMAT, MICRO, RANDOM, RZERO, UNTRAINED, arm_of
from experiments.runs import STORE, WORK, Run, Store, complete
from experiments.terminal import print_table

ARMS = {"micro": {treatment.name: arm_of(MICRO, treatment) for treatment in (RZERO, UNTRAINED, FORMAT, RANDOM)}}


def collect(
    name: str, seeds: Sequence[int], *, fresh: bool, save: bool, jobs: int, console: Console
) -> dict[str, list[Run]]:
    """All runs of all arms; those that are missing are run first, `jobs` at a time. fresh: all of them are."""
    with tempfile.TemporaryDirectory(prefix="rzero-results-") as scratch:
        work, new = Path(scratch) / "work", Path(scratch) / "store"
        store = Store(root=new, work=work) if fresh else Store(root=STORE / name, work=WORK / name)
        complete(tuple(ARMS[name].values()), seeds, store=store, jobs=jobs, console=console)
        if fresh and save:
            shutil.copytree(new, STORE / name, dirs_exist_ok=True)
        return {arm: [store.load(recipe, seed) for seed in seeds] for arm, recipe in ARMS[name].items()}


def summary(runs: dict[str, list[Run]]) -> dict[str, Any]:
    """The figures of README and docs/results.md: overall of base and rounds by arm and seed, gains at the end."""
    main, *controls = runs
    last = {arm: [gain(run.scores[0], run.scores[-1]) for run in group] for arm, group in runs.items()}
    return {
        "mean_gain": fmean(g.points for g in last[main]),
        "min_gain": min(g.points for g in last[main]),
        "spread_gain": spread([g.points for g in last[main]]),
        "gain_among_well_formed": fmean(g.among_well_formed for g in last[main]),
        "gain_format": fmean(g.format for g in last[main]),
        "intervals": [(g.low, g.high) for g in last[main]],
        "controls": {arm: fmean(g.points for g in last[arm]) for arm in controls},
        "control_spreads": {arm: spread([g.points for g in last[arm]]) for arm in controls},
        "wall_minutes": max(run.wall_minutes for group in runs.values() for run in group),
        "peak_rss_gib": max(run.peak_rss_gib for group in runs.values() for run in group),
        "seeds": [run.seed for run in runs[main]],
        "overall": {arm: [[s.overall for s in run.scores] for run in group] for arm, group in runs.items()},
        "rounds": average_rounds(runs[main]),
        "table": average_table(runs[main]),
        "commits": sorted({a["commit"] for group in runs.values() for run in group for a in run.attempts}),
    }


def average_table(runs: Sequence[Run]) -> list[dict[str, dict[str, float]]]:
    """Scores of base and rounds averaged over seeds: [round][row][column]."""
    tables = [[scores.table() for scores in run.scores] for run in runs]
    return [
        {
            row: {column: fmean(table[i][row][column] for table in tables) for column in columns}
            for row, columns in tables[0][i].items()
        }
        for i in range(len(tables[0]))
    ]


def average_rounds(runs: Sequence[Run]) -> list[dict[str, float]]:
    """Metrics of each round averaged over seeds, where every seed has them."""
    return [
        {name: fmean(run.rounds[i][name] for run in runs) for name in first if all(name in r.rounds[i] for r in runs)}
        for i, first in enumerate(runs[0].rounds)
    ]


def show(name: str, figures: dict[str, Any], console: Console) -> None:
    table = Table(title=f"{name}: overall (mean of greedy and mean@k Overall AVG), percent")
    rounds = len(next(iter(figures["overall"].values()))[0])
    for column in ("arm", "seed", "base", *(f"round {i}" for i in range(1, rounds)), "gain"):
        table.add_column(column, justify="left" if column == "arm" else "right")
    for arm, rows in figures["overall"].items():
        for seed, values in zip(figures["seeds"], rows, strict=True):
            table.add_row(arm, str(seed), *(f"{v:.2f}" for v in values), f"{values[-1] - values[0]:+.2f}")
    print_table(console, table)
    console.print(
        f"R-Zero gains {figures['mean_gain']:+.2f} ± {figures['spread_gain']:.2f} points (smallest "
        f"{figures['min_gain']:+.2f}), of which {figures['gain_among_well_formed']:+.2f} are right answers among "
        f"well-formed ones and {figures['gain_format']:+.2f} are format. "
        f"At most {figures['wall_minutes']:.1f} minutes and {figures['peak_rss_gib']:.2f} GiB a run."
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.results", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=sorted(ARMS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--fresh", action="store_true", help="run everything again")
    parser.add_argument("--save", action="store_true", help="keep fresh figures in experiments/results/")
    parser.add_argument(
        "--readme", action="store_true", help="rewrite the result blocks of README.md and docs/results.md"
    )
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time (one core each)")
    options = parser.parse_args(arguments)
    console = Console(stderr=options.json)
    runs = collect(
        options.name, options.seeds, fresh=options.fresh, save=options.save, jobs=options.jobs, console=console
    )
    figures = summary(runs)
    if options.readme:
        readme.update("summary", readme.summary(figures))
        readme.update(options.name, readme.block(options.name, figures))
    if options.json:
        print(json.dumps(figures))
    else:
        show(options.name, figures, console)
    return 0


if __name__ == "__main__":
    sys.exit(main())
