"""Finished runs of the study as files of a few kilobytes: what was measured in each round, without weights and texts.

<root>/<part>/<treatment>/seed<k>/ holds config.yaml, run.json and result.json.xz: metrics and scores by round, family
and level, scores on the harder questions, and the outcomes of single items for some rounds.
"""

from __future__ import annotations

import json
import lzma
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from evaluation.metrics import BenchmarkScore, Scores
from experiments import PROJECT
from experiments.reproduce.past_collapse.arms import Part
from experiments.runs import Store, command, digest, finish, same_recipe, to_six_digits, wall_minutes
from rzero.durable import write_atomically
from rzero.runs.directory import RunDirectory
from rzero.types import Json

ROOT = PROJECT / "experiments" / "results" / "past_collapse"
WORK = PROJECT / "outputs" / "past_collapse"
RESULT = "result.json.xz"
ITEMS_OF = (0, 3, 10)
"""Rounds whose outcomes are kept item by item; the last round's are too."""
HARD_OF = (0, 1, 3, 5, 8, 10)
"""Rounds whose Solvers are asked the harder questions; the last one's is too."""
HARD = "hard"
"""The folder of a run's directory in which the answers to them lie."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A finished run. rounds: metrics of the base model (0) and of each round. overall: the score in percent.

    families, levels: the same by family and, within it, by level. hard: overall on the harder questions, by round.
    items: by round and family, each item's outcome under the greedy and the sampled protocol, in [0, 1].
    """

    seed: int
    manifest: Json
    rounds: Sequence[Mapping[str, float]]
    overall: Sequence[float]
    families: Sequence[Mapping[str, float]]
    levels: Sequence[Mapping[str, Mapping[str, float]]]
    hard: Mapping[int, float]
    hard_levels: Mapping[int, Mapping[str, Mapping[str, float]]]
    items: Mapping[int, Mapping[str, Sequence[tuple[float, float]]]]

    @property
    def minutes(self) -> float:
        return wall_minutes(self.manifest)


def store_of(part: Part) -> Store:
    """Returns where the runs of a part are kept and worked on."""
    return Store(root=ROOT / part.name, work=WORK / part.name)


def lacks(part: Part, treatment: str, seed: int) -> str:
    """Returns why a run does not count as kept; empty when it does."""
    store, arm = store_of(part), part.arm(treatment)
    folder = store.folder(arm, seed)
    if not (folder / RESULT).exists():
        return f"there is no {RESULT} in {folder}"
    if not same_recipe(RunDirectory(folder).config, store.config(arm, seed)):
        return f"{RunDirectory(folder).config} is of another recipe"
    return ""


def execute(part: Part, treatment: str, seed: int) -> Path:
    """Runs an arm in a process of its own, or goes on with it, and keeps it; returns the folder.

    Raises RuntimeError with the end of its error output when it fails; the same call goes on from there.
    """
    store, arm = store_of(part), part.arm(treatment)
    if not finish(arm, seed, store):
        raise RuntimeError(f"{store.directory(arm, seed)} is not finished; see its metrics.jsonl and start again")
    directory = store.directory(arm, seed)
    ask_harder(directory, part)
    folder = store.folder(arm, seed)
    keep(directory, folder)
    return folder


def ask_harder(directory: Path, part: Part) -> None:
    """Asks the Solvers of some rounds the harder questions; what was asked before is not asked again."""
    place = RunDirectory(directory)
    chosen = _chosen(place.evaluated(), HARD_OF)
    policies = dict.fromkeys(_solver(place, number) or part.policy for number in chosen)
    command(
        "experiments.evaluate",
        f"policy={','.join(policies)}",
        "benchmarks=micro_hard",
        f"benchmarks.source.source.split={part.split}",
        f"directory={directory / HARD}",
    )


def hard_scores(directory: Path) -> dict[int, Scores]:
    """Returns what `ask_harder` found, by round (0: the base model)."""
    place = RunDirectory(directory)
    solvers = {number: _solver(place, number) for number in _chosen(place.evaluated(), HARD_OF)}
    entries = [json.loads(path.read_text(encoding="utf-8")) for path in (directory / HARD / "scores").glob("*.json")]
    found = {
        entry["policy"] if entry["policy"] in solvers.values() else "": Scores.from_json(entry["scores"])
        for entry in entries
    }
    return {number: found[solver] for number, solver in solvers.items() if solver in found}


def _solver(place: RunDirectory, number: int) -> str:
    """The weights of the Solver after a round, those before where its training was given up; empty for the base."""
    folders = (place.weights("solver", earlier) for earlier in range(number, 0, -1))
    return next((str(folder) for folder in folders if folder.is_dir()), "")


def _chosen(rounds: Sequence[int], wanted: Sequence[int]) -> list[int]:
    return [number for number in rounds if number in wanted or number == rounds[-1]]


def keep(directory: Path, folder: Path) -> None:
    """Writes the small files of a finished run."""
    folder.mkdir(parents=True, exist_ok=True)
    there, kept = RunDirectory(directory), RunDirectory(folder)
    shutil.copyfile(there.config, kept.config)
    shutil.copyfile(there.manifest, kept.manifest)
    write_atomically(folder / RESULT, lzma.compress(json.dumps(record(directory), sort_keys=True).encode()))


def record(directory: Path) -> Json:
    """Returns everything worth keeping of a run as plain data."""
    found = digest(directory)
    scores = [Scores.from_json(entry) for entry in found["scores"]]
    hard = hard_scores(directory)
    chosen = _chosen(range(len(scores)), ITEMS_OF)
    return {
        "rounds": [to_six_digits(entry) for entry in found["rounds"]],
        "overall": [round(entry.overall, 4) for entry in scores],
        "families": [{b.name: _percent(b) for b in entry.benchmarks} for entry in scores],
        "levels": [by_level(entry) for entry in scores],
        "hard": {str(number): round(entry.overall, 4) for number, entry in sorted(hard.items())},
        "hard_levels": {str(number): by_level(entry) for number, entry in sorted(hard.items())},
        "items": {
            str(number): {b.name: [(float(o.greedy), o.sampled) for o in b.outcomes] for b in scores[number].benchmarks}
            for number in chosen
        },
    }


def load(part: Part, treatment: str, seed: int) -> Kept:
    """Returns a kept run. Raises FileNotFoundError when there is none."""
    folder = store_of(part).folder(part.arm(treatment), seed)
    data = json.loads(lzma.decompress((folder / RESULT).read_bytes()))
    for key in ("hard", "hard_levels", "items"):
        data[key] = {int(number): value for number, value in data[key].items()}
    manifest = json.loads(RunDirectory(folder).manifest.read_text(encoding="utf-8"))
    return Kept(seed=seed, manifest=manifest, **data)


def by_level(scores: Scores) -> dict[str, dict[str, float]]:
    """Returns each family's score in percent (the mean of greedy and sampled) by the level of its items."""
    found: dict[str, dict[str, float]] = {}
    for benchmark in scores.benchmarks:
        levels = sorted({outcome.level for outcome in benchmark.outcomes})
        found[benchmark.name] = {
            str(level): round(fmean(50 * (o.greedy + o.sampled) for o in benchmark.outcomes if o.level == level), 2)
            for level in levels
        }
    return found


def _percent(benchmark: BenchmarkScore) -> float:
    return round(fmean(50 * (outcome.greedy + outcome.sampled) for outcome in benchmark.outcomes), 4)
