"""Past the collapse: ten rounds and more of R-Zero, of single parts against its collapse, and of combinations.

    python -m experiments.reproduce.past_collapse screen                        # what is kept, round by round
    python -m experiments.reproduce.past_collapse screen --run                  # run what is missing, one at a time
    python -m experiments.reproduce.past_collapse screen --run --arms replay anchored --seeds 10
    python -m experiments.reproduce.past_collapse confirm --run                 # also: medium, micro, twenty
    python -m experiments.reproduce.past_collapse calibrate                     # fit the alarm on what was screened
    python -m experiments.reproduce.past_collapse figure                        # picture, and docs/past_collapse.md

A run that is finished is kept at once in experiments/results/past_collapse/ (at most 20 KB); one that was stopped goes
on from outputs/past_collapse/. A run that fails is named, and the others are run.

Exit codes: 0 done; 1 runs are missing, or the user stopped; 2 a wrong value or a failed run; 143 SIGTERM.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from statistics import fmean

from rich.console import Console
from rich.table import Table

from experiments.command_line import DONE, UNMET, WRONG, command_parser, complain, exit_code, say
from experiments.reproduce.past_collapse import calibration, picture
from experiments.reproduce.past_collapse.arms import PARTS, SCREEN, Part
from experiments.reproduce.past_collapse.findings import verdict
from experiments.reproduce.past_collapse.judging import Verdict, judge
from experiments.reproduce.past_collapse.keeping import Kept, execute, lacks, load
from experiments.reproduce.past_collapse.watched import kept, watched
from experiments.terminal import print_table


def show(part: Part, arms: Sequence[str], seeds: Sequence[int], console: Console) -> None:
    """Prints a line for each arm: the mean score by round, and labels and kinds of questions in the last one."""
    table = Table(title=f"{part.name}: overall, percent, mean over kept seeds ({part.split} split)")
    rounds = [number for number in picture.SHOWN if number <= part.rounds]
    for column in ("arm", "seeds", *map(str, rounds), "labels", "families", "hard", "minutes"):
        table.add_column(column, justify="left" if column == "arm" else "right")
    for arm in arms:
        kept = [load(part, arm, seed) for seed in seeds if not lacks(part, arm, seed)]
        if kept:
            table.add_row(arm, ",".join(str(run.seed) for run in kept), *_cells(kept, rounds))
    print_table(console, table)


def _cells(kept: Sequence[Kept], rounds: Sequence[int]) -> list[str]:
    return [
        *(f"{fmean(run.overall[number] for run in kept):.1f}" for number in rounds),
        f"{fmean(run.rounds[-1].get('audit/label_accuracy_kept', 0.0) for run in kept):.2f}",
        f"{fmean(run.rounds[-1].get('audit/families', 0.0) for run in kept):.2f}",
        f"{fmean(run.hard[max(run.hard)] for run in kept):.1f}",
        f"{fmean(run.minutes for run in kept):.0f}",
    ]


def complete(part: Part, arms: Sequence[str], seeds: Sequence[int], *, jobs: int) -> bool:
    """Runs what is missing, seed by seed, `jobs` at a time; returns whether every run came to its end."""
    todo = [(arm, seed) for seed in seeds for arm in arms if lacks(part, arm, seed)]
    whole = True
    with ThreadPoolExecutor(jobs) as pool:
        started = [(arm, seed, pool.submit(execute, part, arm, seed)) for arm, seed in todo]
        try:
            for arm, seed, future in started:
                if (error := future.exception()) is None:
                    say(f"{part.name}, {arm}, seed {seed}: kept in {future.result()}")
                elif isinstance(error, RuntimeError):
                    whole = False
                    complain(f"{part.name}, {arm}, seed {seed}: {error}")
                else:
                    raise error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return whole


def calibrate(console: Console) -> int:
    """Fits the alarm on the screening runs that are kept and prints what it is worth on rounds it did not see."""
    screened = {SCREEN.name: kept(SCREEN)}
    rounds = watched(screened)
    if not rounds:
        complain("no screening run is kept that could teach the alarm anything; `screen --run` makes them")
        return UNMET
    without_run = calibration.left_out(rounds, lambda entry: (entry.arm, entry.seed))
    lows = calibration.limits(rounds, without_run)
    calibration.write(calibration.fit(rounds), lows, rounds=rounds, path=calibration.PLACE)
    without_arm = calibration.left_out(rounds, lambda entry: entry.arm)
    others = {part.name: kept(part) for part in PARTS.values() if part != SCREEN}
    verdicts = {
        "screening, each run held out": judge(rounds, without_run, lows=lows),
        "screening, each arm held out": judge(rounds, without_arm, lows=lows),
        "all other parts": verdict(others),
    }
    table = Table(title="the alarm on rounds it was not fitted on")
    for column in ("", *verdicts):
        table.add_column(column, justify="right" if column else "left")
    for field in fields(Verdict):
        values = [getattr(entry, field.name) for entry in verdicts.values()]
        table.add_row(field.name, *("-" if value is None else f"{value:.3g}" for value in values))
    print_table(console, table)
    say(f"written: {calibration.PLACE}")
    return DONE


def main(arguments: Sequence[str] | None = None) -> int:
    parser = command_parser("experiments.reproduce.past_collapse", __doc__)
    parser.add_argument("part", choices=[*PARTS, "calibrate", "figure"])
    parser.add_argument("--arms", nargs="+", metavar="NAME", help="some of the part's arms (all)")
    parser.add_argument("--seeds", type=int, nargs="+", help="some of the part's seeds (all)")
    parser.add_argument("--run", action="store_true", help="run what is missing, and go on with what was stopped")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time (one core each)")
    options = parser.parse_args(arguments)

    def work() -> int:
        if options.part == "calibrate":
            return calibrate(Console())
        if options.part == "figure":
            say(f"written: {', '.join(map(str, picture.write()))}")
            return DONE
        part = PARTS[options.part]
        arms, seeds = options.arms or part.treatments, options.seeds or part.seeds
        for name, given, known in (("arms", arms, part.treatments), ("seeds", seeds, part.seeds)):
            if unknown := [str(value) for value in given if value not in known]:
                raise ValueError(
                    f"--{name}: {part.name} has no {', '.join(unknown)}, only {', '.join(map(str, known))}"
                )
        whole = complete(part, arms, seeds, jobs=options.jobs) if options.run else True
        show(part, arms, seeds, Console())
        if not whole:
            return WRONG
        return UNMET if any(lacks(part, arm, seed) for arm in arms for seed in seeds) else DONE

    return exit_code(work, stopped="the same command goes on")


if __name__ == "__main__":
    sys.exit(main())
