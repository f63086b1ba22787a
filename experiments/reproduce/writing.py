"""The files that a study leaves in its folder: table.md, figures.json, figure.png and manifest.json."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from experiments.provenance import commit
from experiments.reporting.figures import save
from experiments.reporting.markdown import markdown_table
from experiments.reproduce.study import Grid, Runs, Study, plain
from experiments.runs import RESULT, KeptRun, Store
from rzero.durable import write_atomically
from rzero.types import Json

FIGURES, MANIFEST = "figures.json", "manifest.json"
CLAIM_HEADER = (
    "model", "claim", "the paper", "here", "measured [95 % interval]", "sure that it is above 0", "seeds",
)  # fmt: skip


def write(
    study: Study, runs: Runs, *, scale: str, seeds: Sequence[int], store: Store, folder: Path, command: str
) -> None:
    """Table, figures, picture and, last, the manifest that says they are complete."""
    folder.mkdir(parents=True, exist_ok=True)
    grids, claims = study.tabulate(runs), plain(study, runs)
    figures = {"tables": [asdict(grid) for grid in grids], "claims": claims}
    write_atomically(folder / FIGURES, json.dumps(figures, indent=1).encode())
    write_atomically(folder / "table.md", markdown(study, grids, claims, command=command).encode())
    save(lambda: study.draw(runs), folder / "figure.png")
    data = manifest(study, runs, scale=scale, seeds=seeds, store=store, command=command)
    write_atomically(folder / MANIFEST, json.dumps(data, indent=1).encode())


def manifest(study: Study, runs: Runs, *, scale: str, seeds: Sequence[int], store: Store, command: str) -> Json:
    """Return what made the result: command, commits, versions, seeds, and every run with its configuration and time."""
    entries = [
        {
            "arm": f"{model.name}, {treatment.name}",
            "folder": str(store.folder(arm, run.seed).relative_to(store.root)),
            "overrides": list(arm.overrides),
            "seed": run.seed,
            "commits": sorted({attempt["commit"] for attempt in run.attempts}),
            "cpus": sorted({attempt.get("cpu", "not recorded") for attempt in run.attempts}),
            "wall_minutes": round(run.wall_minutes, 2),
            "peak_rss_gib": round(run.peak_rss_gib, 3),
        }
        for model, treatment, arm in study.arms(scale)
        for run in runs[model.name][treatment.name]
    ]
    every = [run for group in runs.values() for found in group.values() for run in found]
    return {
        "study": study.name,
        "scale": scale,
        "command": command,
        "seeds": list(seeds),
        "tabulated_at_commit": commit(),
        "tabulated_unix_s": round(time.time()),
        "versions": _common(every, "versions"),
        "machine": _common(every, "machine"),
        "minutes": round(sum(run.wall_minutes for run in every), 1),
        "results_sha256": fingerprint(study, scale=scale, seeds=seeds, store=store),
        "runs": entries,
    }


def fingerprint(study: Study, *, scale: str, seeds: Sequence[int], store: Store) -> str:
    """Return a hash of the kept runs that a study reads: a table that was made from others is out of date."""
    total = hashlib.sha256()
    for _, _, arm in study.arms(scale):
        for seed in seeds:
            total.update((store.folder(arm, seed) / RESULT).read_bytes())
    return total.hexdigest()


def _common(runs: Sequence[KeptRun], key: str) -> object:
    """Return the value that all runs share, or the list of those that occur."""
    values = [run.manifest[key] for run in runs]
    return (
        values[0]
        if all(value == values[0] for value in values)
        else [v for i, v in enumerate(values) if v not in values[:i]]
    )


def markdown(study: Study, grids: Sequence[Grid], claims: Sequence[Json], *, command: str) -> str:
    """Return the tables, then each claim with its verdict and how sure it is."""
    blocks = [f"# {study.title}", f"Paper: {study.source}. Command: `{command}`."]
    for grid in grids:
        blocks += [grid.title + ":", markdown_table(grid.header, grid.rows)]
    blocks += ["## Claims", markdown_table(CLAIM_HEADER, [claim_row(entry) for entry in claims], numeric=False)]
    blocks.append("A claim holds, or does not, where the interval over seeds (Student's t) leaves 0 out.")
    return "\n\n".join([*blocks, "![figure](figure.png)"]) + "\n"


def claim_row(entry: Json) -> list[str]:
    """Return a claim under CLAIM_HEADER."""
    interval = "" if entry["low"] is None else f" [{entry['low']:+.2f}, {entry['high']:+.2f}]"
    sure = "one seed says nothing" if entry["confidence"] is None else f"{100 * entry['confidence']:.1f} %"
    measured = f"{entry['mean']:+.2f}{interval} {entry['unit']}"
    return [entry["model"], entry["claim"], entry["paper"], entry["verdict"], measured, sure, str(entry["seeds"])]
