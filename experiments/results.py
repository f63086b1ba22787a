"""Print the result table of an experiment with its controls, from runs that are kept.

    python -m experiments.results micro --seeds 0 1 2            # print the committed results
    python -m experiments.results micro --seeds 0 1 2 --json
    python -m experiments.results micro --run --jobs 2           # run first what is missing
    python -m experiments.results micro --fresh --jobs 2         # run everything again (micro: about an hour)
    python -m experiments.results micro --fresh --save           # ... and commit the figures to experiments/results/
    python -m experiments.results past_collapse --json           # the study past the collapse, all seeds that are kept
    python -m experiments.results qwen2_5_coder_0_5b --json      # run by experiments.reproduce.half_billion

Finished runs are looked for in experiments/results/<name>/<arm>/seed<k>/ (small files in the repository: configuration,
manifest, scores, metrics by iteration). A run whose configuration is not today's does not count as finished. Nothing is
started without --run or --fresh. Runs are written to outputs/results/; one that was stopped goes on from there.

Exit codes: 0 printed; 1 runs are missing, and named, or the user stopped; 2 a wrong value or a failed run.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean

from rich.console import Console
from rich.table import Table

from evaluation.metrics import gain, spread
from experiments import readme
from experiments.command_line import DONE, UNMET, command_parser, complain, exit_code
from experiments.reproduce.arms import FORMAT, MICRO, RANDOM, RZERO, UNTRAINED, arm_of
from experiments.runs import (
    STORE,
    WORK,
    KeptRun,
    MissingRuns,
    Store,
    average_iterations,
    average_table,
    complete,
    require,
)
from experiments.terminal import print_table
from rzero.types import Json

ARMS = {"micro": {treatment.name: arm_of(MICRO, treatment) for treatment in (RZERO, UNTRAINED, FORMAT, RANDOM)}}


SEEDS = (0, 1, 2)
"""What a study is told of where none are named."""


def collect(name: str, seeds: Sequence[int], *, run: bool, jobs: int, console: Console) -> dict[str, list[KeptRun]]:
    """Return all kept runs of all arms. run: those that are missing are run first, `jobs` at a time.

    Raises MissingRuns when there are such and nothing is to be run.
    """
    return _collect(name, Store(root=STORE / name, work=WORK / name), seeds, run=run, jobs=jobs, console=console)


def again(name: str, seeds: Sequence[int], *, save: bool, jobs: int, console: Console) -> dict[str, list[KeptRun]]:
    """Run all arms again and return them. save: the figures replace those that are kept."""
    with tempfile.TemporaryDirectory(prefix="rzero-results-") as scratch:
        store = Store(root=Path(scratch) / "store", work=Path(scratch) / "work")
        runs = _collect(name, store, seeds, run=True, jobs=jobs, console=console)
        if save:
            shutil.copytree(store.root, STORE / name, dirs_exist_ok=True)
        return runs


def _collect(
    name: str, store: Store, seeds: Sequence[int], *, run: bool, jobs: int, console: Console
) -> dict[str, list[KeptRun]]:
    arms = tuple(ARMS[name].values())
    if run:
        complete(arms, seeds, store=store, jobs=jobs, console=console)
    else:
        require(arms, seeds, store=store)
    return {arm: [store.load(recipe, seed) for seed in seeds] for arm, recipe in ARMS[name].items()}


def summary(runs: dict[str, list[KeptRun]]) -> Json:
    """Return the figures: by arm and seed the overall score of base and iterations, and the gains at the end."""
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
        "rounds": average_iterations(runs[main]),
        "table": average_table(runs[main]),
        "commits": sorted({a["commit"] for group in runs.values() for run in group for a in run.attempts}),
    }


def show(name: str, figures: Json, console: Console) -> None:
    table = Table(title=f"{name}: overall (mean of greedy and mean@k Overall AVG), percent")
    iterations = len(next(iter(figures["overall"].values()))[0])
    for column in ("arm", "seed", "base", *(f"iteration {i}" for i in range(1, iterations)), "gain"):
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


def half_billion(options: argparse.Namespace, console: Console) -> int:
    """Show the language model's figures; runs that are missing are named, and what needs them is null."""
    from experiments.reproduce.half_billion import figures

    seeds = options.seeds or SEEDS
    runs = figures.kept(seeds)
    found, lost = figures.figures(runs, seeds), figures.missing(seeds)
    if options.readme:
        figures.write(runs, found)
    if options.json:
        print(json.dumps(found))
    else:
        shown = figures.page(runs, found) or "R-Zero is not kept with all of these seeds"
        console.print(shown, markup=False, highlight=False, soft_wrap=True)  # a broken line is no row of a table
    if lost:
        complain(MissingRuns(lost, start="python -m experiments.reproduce.half_billion --run"))
    return UNMET if lost else DONE


def past_collapse(options: argparse.Namespace, console: Console) -> int:
    """Show the figures of the study past the collapse, of all seeds that are kept."""
    from experiments.reproduce.past_collapse import findings

    if options.seeds or options.readme:
        raise ValueError("past_collapse tells of all seeds that are kept; `past_collapse figure` writes its page")
    return findings.tell(as_json=options.json)


STUDIES: Mapping[str, Callable[[argparse.Namespace, Console], int]] = {
    "qwen2_5_coder_0_5b": half_billion,
    "past_collapse": past_collapse,
}
"""Results of studies whose arms have seeds of their own."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = command_parser("experiments.results", __doc__)
    parser.add_argument("name", choices=sorted(ARMS.keys() | STUDIES.keys()))
    parser.add_argument("--seeds", type=int, nargs="+", help="of micro and qwen2_5_coder_0_5b (0 1 2)")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--run", action="store_true", help="run what is missing, and go on with what was stopped")
    parser.add_argument("--fresh", action="store_true", help="run everything again")
    parser.add_argument("--save", action="store_true", help="keep fresh figures in experiments/results/")
    parser.add_argument(
        "--readme", action="store_true", help="rewrite the result blocks of README.md and docs/results.md"
    )
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time (one core each)")
    options = parser.parse_args(arguments)
    name, seeds, console = options.name, options.seeds or SEEDS, Console(stderr=options.json)

    def work() -> int:
        if name in STUDIES:
            if options.run or options.fresh or options.save:
                raise ValueError(f"{name} is run by a command of its own; this one starts nothing")
            return STUDIES[name](options, console)
        try:
            if options.fresh:
                runs = again(name, seeds, save=options.save, jobs=options.jobs, console=console)
            else:
                runs = collect(name, seeds, run=options.run, jobs=options.jobs, console=console)
        except MissingRuns as reason:
            complain(reason)
            return UNMET
        figures = summary(runs)
        if options.readme:
            readme.update("summary", readme.summary(figures))
            readme.update(name, readme.block(name, figures))
        if options.json:
            print(json.dumps(figures))
        else:
            show(name, figures, console)
        return DONE

    return exit_code(work, stopped="the same command goes on")


if __name__ == "__main__":
    sys.exit(main())
