"""Run many iterations in one process: file descriptors, threads and memory must stay flat.

    python -m experiments.soak --iterations 10 --json

Measured at the end of every iteration of experiment=shrunk; `drift` is the largest change after iteration 2, as a share
of what was there then. Exit codes: 0 flat, 1 something grew by more than `--allowed`, 2 a wrong value.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from experiments.command_line import DONE, UNMET, command_parser, exit_code
from experiments.compose import compose
from experiments.terminal import progress, quiet_libraries
from rzero.runs.progress import Meter, Silent
from rzero.types import Json

SETTLED = 2  # iterations after which nothing may grow any more
STAGES = 4  # of an iteration


class Gauge(Silent):
    """A narrator that measures the process whenever a stage ends."""

    def __init__(self, meter: Meter) -> None:
        self.meter = meter
        self.rows: list[dict[str, int]] = []

    def end(self, summary: str = "") -> None:
        gc.collect()
        self.rows.append(measure())
        self.meter.advance()


def measure() -> dict[str, int]:
    """Open file descriptors, threads, and resident memory in bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "descriptors": len(os.listdir("/proc/self/fd")),
        "threads": len(os.listdir("/proc/self/task")),
        "memory": pages * os.sysconf("SC_PAGE_SIZE"),
    }


def soak(iterations: int, *, seed: int, folder: Path) -> Json:
    """Return the report that the command prints."""
    from experiments import composition
    from rzero.processes.cpu import set_up_cpu

    started, console = time.monotonic(), Console(stderr=True)
    # every question somebody answered is kept: how good they are does not matter here
    keep_all = ("curriculum.rule.band.half_width=0.5", "collapse=warn")
    cfg = compose("experiment=shrunk", f"iterations={iterations}", f"seed={seed}", *keep_all)
    set_up_cpu(threads=cfg.threads, kernels=cfg.cpu_kernels)
    quiet_libraries(console)
    selfplay = composition.build(cfg, folder)
    with progress("stages", total=1 + STAGES * iterations, console=console) as meter:
        gauge = selfplay.stages.narrator = Gauge(meter)
        try:
            selfplay.run()
        finally:
            selfplay.close()
    after = gauge.rows[::STAGES]  # the base's evaluation, then four stages an iteration
    settled = after[SETTLED]
    return {
        "iterations": iterations,
        "seed": seed,
        "drift": {name: max(row[name] / settled[name] - 1 for row in after[SETTLED:]) for name in settled},
        "after_iteration": after,
        "seconds": round(time.monotonic() - started, 1),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = command_parser("experiments.soak", __doc__)
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--allowed", type=float, default=0.05, help="largest drift that is still flat (default 0.05)")
    parser.add_argument("--json", action="store_true", help="print the whole report as JSON")
    options = parser.parse_args(arguments)
    if options.iterations <= SETTLED:
        parser.error(f"--iterations must be more than {SETTLED}, got {options.iterations}")

    def work() -> int:
        with tempfile.TemporaryDirectory(prefix="rzero-soak-") as folder:
            result = soak(options.iterations, seed=options.seed, folder=Path(folder))
        drift = result["drift"]
        print(json.dumps(result, indent=1) if options.json else ", ".join(f"{k} {v:+.1%}" for k, v in drift.items()))
        return UNMET if max(drift.values()) > options.allowed else DONE

    return exit_code(work)


if __name__ == "__main__":
    sys.exit(main())
