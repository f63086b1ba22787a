"""The result table of an experiment with its controls, from finished runs or by running them.

    python -m experiments.results micro --seeds 0 1 2            # print the committed results
    python -m experiments.results micro --seeds 0 1 2 --json
    python -m experiments.results micro --fresh --jobs 2         # run everything again (micro: about an hour)
    python -m experiments.results micro --fresh --save           # ... and commit the figures to experiments/results/

Finished runs are looked for in experiments/results/<name>/<arm>/seed<k>/ (small files in the repository: configuration,
manifest, scores, metrics by round). A run whose configuration is not today's does not count as finished.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

from evaluation.metrics import Scores, gain, spread
from experiments import PROJECT, readme
from experiments.resolvers import register_resolvers
from rzero.durable import write_atomically
from rzero.tracking import read_metrics

STORE = PROJECT / "experiments" / "results"
ARMS = {
    "micro": {
        "R-Zero": "micro",
        "untrained Challenger": "micro_untrained_challenger",
        "format reward": "micro_format_reward",
        "random reward": "micro_random_reward",
    }
}
NOT_THE_RECIPE = ("directory", "resume", "log_seconds", "grader_alarm", "grader")
"""Where a run was written, what it said meanwhile, and the limits of the grader's processes."""
ROUND_METRICS = ("audit/", "curriculum/")


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One finished run: scores of the base model and of every round, metrics by round, manifest."""

    seed: int
    scores: tuple[Scores, ...]
    rounds: tuple[dict[str, float], ...]
    manifest: dict[str, Any]

    @property
    def wall_minutes(self) -> float:
        return sum(a["finished_unix_s"] - a["started_unix_s"] for a in self.manifest["attempts"]) / 60

    @property
    def peak_rss_gib(self) -> float:
        return max(attempt["peak_rss_gib"] for attempt in self.manifest["attempts"])


def composed(experiment: str, seed: int) -> DictConfig:
    """Today's configuration of an experiment."""
    register_resolvers()
    with initialize_config_dir(config_dir=str(PROJECT / "conf"), version_base="1.3"):
        return compose("config", overrides=[f"experiment={experiment}", f"seed={seed}"])


def same_recipe(saved: Path, experiment: str, seed: int) -> bool:
    """Whether a saved configuration is today's, apart from where it was run."""

    def agrees(then: Any, now: Any) -> bool:
        """Keys that did not exist then do not count: a new choice's default has to leave old results as they were."""
        if isinstance(then, dict) and isinstance(now, dict):
            kept = then.keys() - set(NOT_THE_RECIPE)
            return all(key in now and agrees(then[key], now[key]) for key in kept)
        return bool(then == now)

    then, now = OmegaConf.load(saved), composed(experiment, seed)
    return agrees(OmegaConf.to_container(then, resolve=False), OmegaConf.to_container(now, resolve=False))


def digest(directory: Path) -> dict[str, Any]:
    """What is worth keeping of a run directory, as one small record: metrics of each round and all scores."""
    metrics = read_metrics(directory / "metrics.jsonl")
    rounds: dict[int, dict[str, float]] = {}
    for row in metrics:
        entry = rounds.setdefault(int(row["iteration"]), {})
        for role in ("challenger", "solver"):
            if f"{role}/reward" in row:
                entry.setdefault(f"{role}/first_reward", row[f"{role}/reward"])
                entry[f"{role}/reward"] = row[f"{role}/reward"]
                entry[f"{role}/kl"] = row.get(f"{role}/kl", 0.0)
                entry[f"{role}/length"] = row[f"{role}/completions/mean_length"]
        entry.update({name: value for name, value in row.items() if name.startswith(ROUND_METRICS)})
    last = max(rounds)
    scores = [
        json.loads((directory / f"iteration_{i}" / "evaluation.json").read_text(encoding="utf-8"))
        for i in range(last + 1)
    ]
    return {"rounds": [rounds.get(i, {}) for i in range(last + 1)], "scores": scores}


def load(folder: Path, seed: int) -> Run:
    """A run from a folder of the store."""
    record = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    return Run(
        seed=seed,
        scores=tuple(map(Scores.from_json, record["scores"])),
        rounds=tuple(record["rounds"]),
        manifest=json.loads((folder / "run.json").read_text(encoding="utf-8")),
    )


def keep(directory: Path, folder: Path) -> None:
    """Copy the small files of a finished run into the store."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("config.yaml", "run.json"):
        shutil.copyfile(directory / name, folder / name)
    write_atomically(folder / "result.json", json.dumps(digest(directory)).encode())


def execute(experiment: str, seed: int, folder: Path) -> None:
    """Run an experiment in a process of its own and keep its figures in `folder`."""
    with tempfile.TemporaryDirectory(prefix="rzero-") as scratch:
        directory = Path(scratch) / "run"
        command = [sys.executable, "-m", "experiments.run", f"experiment={experiment}", f"seed={seed}"]
        done = subprocess.run(
            [*command, f"directory={directory}"], cwd=PROJECT, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{experiment} seed {seed} ended with code {done.returncode}:\n{done.stderr[-2000:]}")
        keep(directory, folder)


def collect(
    name: str, seeds: Sequence[int], *, fresh: bool, store: Path, jobs: int, console: Console
) -> dict[str, list[Run]]:
    """All runs of all arms; those that are missing are run first, `jobs` at a time."""
    todo = []
    for arm, experiment in ARMS[name].items():
        for seed in seeds:
            folder = store / name / experiment / f"seed{seed}"
            found = (folder / "result.json").exists() and same_recipe(folder / "config.yaml", experiment, seed)
            if fresh or not found:
                todo.append((arm, experiment, seed, folder))
    if todo:
        console.print(
            f"{len(todo)} runs are missing or of another recipe; running them, {jobs} at a time", style="bold"
        )
    with ThreadPoolExecutor(jobs) as pool:
        started = [
            (arm, seed, pool.submit(execute, experiment, seed, folder)) for arm, experiment, seed, folder in todo
        ]
        for arm, seed, future in started:
            future.result()
            console.print(f"{arm}, seed {seed}: done")
    return {
        arm: [load(store / name / experiment / f"seed{seed}", seed) for seed in seeds]
        for arm, experiment in ARMS[name].items()
    }


def summary(runs: dict[str, list[Run]]) -> dict[str, Any]:
    """The figures of the README: per arm and seed the overall score of base and rounds; gains of the last round."""
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
        "commits": sorted({a["commit"] for group in runs.values() for run in group for a in run.manifest["attempts"]}),
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
    console.print(table)
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
    parser.add_argument("--readme", action="store_true", help="rewrite the result block of the README")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time (one core each)")
    options = parser.parse_args(arguments)
    console = Console(stderr=options.json)
    with tempfile.TemporaryDirectory(prefix="rzero-results-") as scratch:
        store = STORE if options.save or not options.fresh else Path(scratch)
        runs = collect(
            options.name, options.seeds, fresh=options.fresh, store=store, jobs=options.jobs, console=console
        )
    figures = summary(runs)
    if options.readme:
        readme.update(options.name, figures)
    if options.json:
        print(json.dumps(figures))
    else:
        show(options.name, figures, console)
    return 0


if __name__ == "__main__":
    sys.exit(main())
