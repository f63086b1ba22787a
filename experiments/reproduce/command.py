"""The command of every study: tabulate and judge the runs that are kept; with --run, run first what is missing.

Exit codes: 0 written; 1 runs are missing, and named, or the user stopped; 2 a wrong setting, a failed run; 143 SIGTERM.
"""

from __future__ import annotations

import argparse
import importlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from experiments.command_line import DONE, UNMET, add_config_dir, command_parser, complain, exit_code, say
from experiments.paths import place
from experiments.reproduce.study import Runs, Study
from experiments.reproduce.writing import FIGURES, MANIFEST, fingerprint, write
from experiments.runs import STORE, WORK, Arm, MissingRuns, Store, complete, require
from rzero.types import Json

SCALES = ("micro", "paper")
USAGE = """scale=micro|paper   the micro world on a CPU, or the paper's models on GPUs (micro)
seeds=0,1,2         seeds of every arm (0,1,2)
jobs=1              runs at a time, one core each (1); they are started with --run only
output=DIR          write everything there and not to experiments/results/
key=value           any override of the configuration; needs output=DIR, because it is another experiment

Runs that are kept in experiments/results/ are not repeated; those that are missing are named, and started with --run. A
run that was stopped goes on from outputs/results/, so this can run in the background:

    nohup python -m experiments.reproduce all scale=micro --run > reproduce.log &

Exit codes: 0 written; 1 runs are missing, or the user stopped; 2 a wrong setting or a failed run; 143 SIGTERM.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The wishes on the command line. run: missing runs may be started."""

    scale: str = "micro"
    seeds: tuple[int, ...] = ()
    jobs: int = 1
    output: Path | None = None
    overrides: tuple[str, ...] = ()
    config_dir: Path | None = None
    run: bool = False

    def store(self) -> Store:
        """Where runs of this scale are kept: one place for all studies, so that a run they share is run once."""
        if self.output:
            output = self.output.resolve()
            return Store(root=output / "runs", work=output / "work", extra=self.overrides, config_dir=self.config_dir)
        return Store(root=STORE / self.scale, work=WORK / self.scale)

    def folder(self, study: Study) -> Path:
        return (self.output or STORE / "reproduce") / study.name / self.scale

    def seeds_of(self, study: Study) -> tuple[int, ...]:
        return self.seeds or tuple(study.seeds[self.scale])


def read_options(settings: Sequence[str], *, run: bool = False, config_dir: Path | None = None) -> Options:
    """Return what `settings` ask for. Raises ValueError naming the setting, its value and what it may be."""
    given = dict(text.partition("=")[::2] for text in settings)
    overrides = tuple(text for text in settings if text.partition("=")[0] not in ("scale", "seeds", "jobs", "output"))
    scale, output = given.get("scale", "micro"), given.get("output")
    if scale not in SCALES:
        raise ValueError(f"scale must be one of {', '.join(SCALES)}, got {scale!r}")
    if output and place(output).is_file():
        raise NotADirectoryError(f"output={output} is a file; give a folder")
    if (overrides or config_dir) and not output:
        given_here = " ".join([*overrides, *([f"--config-dir {config_dir}"] if config_dir else [])])
        raise ValueError(f"{given_here} would make other runs than those the results are kept of; add output=DIR")
    return Options(
        scale=scale,
        seeds=_numbers("seeds", given["seeds"]) if "seeds" in given else (),
        jobs=_numbers("jobs", given.get("jobs", "1"))[0],
        output=place(output) if output else None,
        overrides=overrides,
        config_dir=config_dir,
        run=run,
    )


def _numbers(key: str, text: str) -> tuple[int, ...]:
    if not all(part.isdecimal() for part in text.split(",")):
        raise ValueError(f"{key} must be whole numbers with commas between them, got {text!r}")
    return tuple(int(part) for part in text.split(","))


Kept = Callable[[Arm, int], bool]
"""Whether a run of this arm and seed is in the store."""


def state(study: Study, options: Options, *, kept: Kept | None = None) -> str:
    """Return `not run`, `2 of 6 runs`, `runs finished, no table`, `table out of date`, `done`, or why it cannot be.

    kept: asked instead of the store; of several studies, one that remembers what another has asked.
    """
    if options.scale in study.missing:
        return f"not possible: {study.missing[options.scale]}"
    store, seeds = options.store(), options.seeds_of(study)
    has = kept or store.has
    there = [has(arm, seed) for _, _, arm in study.arms(options.scale) for seed in seeds]
    if not any(there):
        return "not run"
    if not all(there):
        return f"{sum(there)} of {len(there)} runs"
    written = options.folder(study) / MANIFEST
    if not written.exists():
        return "runs finished, no table"
    current = fingerprint(study, scale=options.scale, seeds=seeds, store=store)
    return "done" if current in written.read_text(encoding="utf-8") else "table out of date"


def claims(study: Study, options: Options) -> list[Json]:
    """Return what a written result says of each claim and model."""
    found: list[Json] = json.loads((options.folder(study) / FIGURES).read_text(encoding="utf-8"))["claims"]
    return found


def command_line(study: Study, options: Options) -> str:
    """Return what regenerates the result."""
    parts = [f"python -m experiments.reproduce.{study.name}", f"scale={options.scale}"]
    parts.append("seeds=" + ",".join(map(str, options.seeds_of(study))))
    parts += [f"output={options.output}"] if options.output else []
    return " ".join([*parts, *options.overrides])


def reproduce(study: Study, options: Options, console: Console) -> Path:
    """Write the result and return its folder; with `options.run` what is missing is run first.

    Raises MissingRuns when there is such and it is not to be run, RuntimeError when a run fails, ValueError when the
    study has no runs of this scale.
    """
    if options.scale in study.missing:
        raise ValueError(f"{study.name} has no scale={options.scale}: {study.missing[options.scale]}")
    store, seeds, arms = options.store(), options.seeds_of(study), study.arms(options.scale)
    console.print(f"{study.title}: {len(arms)} arms, seeds {', '.join(map(str, seeds))}", highlight=False)
    wanted = [arm for _, _, arm in arms]
    if options.run:
        complete(wanted, seeds, store=store, jobs=options.jobs, console=console)
    else:
        require(wanted, seeds, store=store)
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
    say(f"written: {folder}", console=console)
    return folder


def main(study: Study, arguments: Sequence[str] | None = None) -> int:
    """Carry out the command of one study."""
    parser = command_parser(f"experiments.reproduce.{study.name}", f"{study.title}. Paper: {study.source}.")
    parser.epilog = USAGE
    add_settings(parser)
    given = parser.parse_intermixed_args(arguments)
    return carry_out([study], lambda: read_options(given.settings, run=given.run, config_dir=given.config_dir))


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add what all studies take."""
    parser.add_argument("settings", nargs="*", metavar="key=value")
    parser.add_argument("--run", action="store_true", help="run what is missing, and go on with what was stopped")
    add_config_dir(parser)


def carry_out(studies: Sequence[Study], read: Callable[[], Options]) -> int:
    """Return the exit code of several studies, one after the other; what one of them has run, the next finds.

    Of several, one that has no runs of this scale is left out, and missing runs of one do not keep the others back.
    """

    def work() -> int:
        options, code = read(), DONE
        for study in studies:
            if len(studies) > 1 and options.scale in study.missing:
                say(f"{study.name}: not possible, {study.missing[options.scale]}")
                continue
            try:
                reproduce(study, options, Console())
            except MissingRuns as reason:
                complain(f"{study.name}: {reason}")
                code = UNMET
        return code

    return exit_code(work, stopped="the same command goes on")


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
