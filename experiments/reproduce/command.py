"""The command of every study: run what is missing, tabulate, judge; started again it goes on where it was stopped."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from experiments.reproduce.study import Runs, Study
from experiments.reproduce.writing import FIGURES, MANIFEST, fingerprint, write
from experiments.runs import STORE, WORK, Store, complete

SCALES = ("micro", "paper")
USAGE = """scale=micro|paper   the micro world on a CPU, or the paper's models on GPUs (micro)
seeds=0,1,2         seeds of every arm (0,1,2)
jobs=1              runs at a time, one core each (1)
output=DIR          write everything there and not to experiments/results/
key=value           any override of the configuration; needs output=DIR, because it is another experiment

Runs that are kept in experiments/results/ are not repeated. A run that was stopped goes on from outputs/results/, so
this can run in the background:

    nohup python -m experiments.reproduce all scale=micro > reproduce.log &
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What was asked for on the command line."""

    scale: str = "micro"
    seeds: tuple[int, ...] = ()
    jobs: int = 1
    output: Path | None = None
    overrides: tuple[str, ...] = field(default_factory=tuple)

    def store(self) -> Store:
        """Where runs of this scale are kept: one place for all studies, so that a run they share is run once."""
        if self.output:
            output = self.output.resolve()
            return Store(root=output / "runs", work=output / "work", extra=self.overrides)
        return Store(root=STORE / self.scale, work=WORK / self.scale)

    def folder(self, study: Study) -> Path:
        return (self.output or STORE / "reproduce") / study.name / self.scale

    def seeds_of(self, study: Study) -> tuple[int, ...]:
        return self.seeds or tuple(study.seeds[self.scale])


def read_options(settings: Sequence[str]) -> Options:
    """Raises ValueError naming the setting, its value and what it may be."""
    given = dict(text.partition("=")[::2] for text in settings)
    overrides = tuple(text for text in settings if text.partition("=")[0] not in ("scale", "seeds", "jobs", "output"))
    scale, output = given.get("scale", "micro"), given.get("output")
    if scale not in SCALES:
        raise ValueError(f"scale must be one of {', '.join(SCALES)}, got {scale!r}")
    if overrides and not output:
        raise ValueError(
            f"{' '.join(overrides)} would make other runs than those the results are kept of; add output=DIR"
        )
    return Options(
        scale=scale,
        seeds=_numbers("seeds", given["seeds"]) if "seeds" in given else (),
        jobs=_numbers("jobs", given.get("jobs", "1"))[0],
        output=Path(output) if output else None,
        overrides=overrides,
    )


def _numbers(key: str, text: str) -> tuple[int, ...]:
    if not all(part.isdecimal() for part in text.split(",")):
        raise ValueError(f"{key} must be whole numbers with commas between them, got {text!r}")
    return tuple(int(part) for part in text.split(","))


def state(study: Study, options: Options) -> str:
    """`not run`, `2 of 6 runs`, `runs finished, no table`, `table out of date` or `done`; or why it cannot be run."""
    if options.scale in study.missing:
        return f"not possible: {study.missing[options.scale]}"
    store, seeds = options.store(), options.seeds_of(study)
    there = [store.has(arm, seed) for _, _, arm in study.arms(options.scale) for seed in seeds]
    if not any(there):
        return "not run"
    if not all(there):
        return f"{sum(there)} of {len(there)} runs"
    written = options.folder(study) / MANIFEST
    if not written.exists():
        return "runs finished, no table"
    current = fingerprint(study, scale=options.scale, seeds=seeds, store=store)
    return "done" if current in written.read_text(encoding="utf-8") else "table out of date"


def claims(study: Study, options: Options) -> list[dict[str, Any]]:
    """What a written result says of each claim and model."""
    found: list[dict[str, Any]] = json.loads((options.folder(study) / FIGURES).read_text(encoding="utf-8"))["claims"]
    return found


def command_line(study: Study, options: Options) -> str:
    """What regenerates the result."""
    parts = [f"python -m experiments.reproduce.{study.name}", f"scale={options.scale}"]
    parts.append("seeds=" + ",".join(map(str, options.seeds_of(study))))
    parts += [f"output={options.output}"] if options.output else []
    return " ".join([*parts, *options.overrides])


def reproduce(study: Study, options: Options, console: Console) -> Path:
    """Run what is missing and write the result; returns its folder.

    Raises RuntimeError when a run fails, ValueError when the study has no runs of this scale.
    """
    if options.scale in study.missing:
        raise ValueError(f"{study.name} has no scale={options.scale}: {study.missing[options.scale]}")
    store, seeds, arms = options.store(), options.seeds_of(study), study.arms(options.scale)
    console.print(f"{study.title}: {len(arms)} arms, seeds {', '.join(map(str, seeds))}", highlight=False)
    complete([arm for _, _, arm in arms], seeds, store=store, jobs=options.jobs, console=console)
    runs: Runs = {
        model.name: {t.name: [store.load(arm, seed) for seed in seeds] for m, t, arm in arms if m is model}
        for model in study.models[options.scale]
    }
    folder = options.folder(study)
    write(
        study,
        runs,
        scale=options.scale,
        seeds=seeds,
        store=store,
        folder=folder,
        command=command_line(study, options),
    )
    console.print(f"written: {folder}", highlight=False, markup=False, soft_wrap=True)
    return folder


def main(study: Study, arguments: Sequence[str] | None = None) -> int:
    """One study. Exit codes: 0 written, 1 stopped by the user, 2 a wrong setting or a failed run."""
    parser = argparse.ArgumentParser(
        prog=f"python -m experiments.reproduce.{study.name}",
        description=f"{study.title}. Paper: {study.source}.",
        epilog=USAGE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("settings", nargs="*", metavar="key=value")
    return run([study], parser.parse_args(arguments).settings)


def run(studies: Sequence[Study], settings: Sequence[str]) -> int:
    """Several studies one after the other; what one of them has run, the next finds."""
    try:
        options = read_options(settings)
        for study in studies:
            reproduce(study, options, Console())
    except KeyboardInterrupt:
        print("error: stopped by the user; the same command goes on", file=sys.stderr)
        return 1
    except (ValueError, OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


NAMES = (
    "main_table",
    "general_table",
    "ablation_table",
    "difficulty_table",
    "scaling_figure",
    "one_model",
    "labelled_training",
)
"""Every study, in the order of the paper."""


def studies() -> list[Study]:
    return [importlib.import_module(f"experiments.reproduce.{name}").STUDY for name in NAMES]
