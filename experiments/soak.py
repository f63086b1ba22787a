"""Many rounds in one process: file descriptors, threads and memory must stay flat.

    python -m experiments.soak --rounds 10 --json

Measured at the end of every round of experiment=shrunk; `drift` is the largest change after round 2, as a share of what
was there then. Exit codes: 0 flat, 1 something grew by more than `--allowed`, 2 a wrong value.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rzero.runs.progress import Silent

SETTLED = 2  # rounds after which nothing may grow any more


class Gauge(Silent):
    """A narrator that measures the process whenever a stage ends."""

    def __init__(self) -> None:
        self.rows: list[dict[str, int]] = []

    def end(self, summary: str = "") -> None:
        gc.collect()
        self.rows.append(measure())


def measure() -> dict[str, int]:
    """Open file descriptors, threads, and resident memory in bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "descriptors": len(os.listdir("/proc/self/fd")),
        "threads": len(os.listdir("/proc/self/task")),
        "memory": pages * os.sysconf("SC_PAGE_SIZE"),
    }


def soak(rounds: int, *, seed: int, folder: Path) -> dict[str, Any]:
    """The report that the command prints."""
    from experiments import composition
    from experiments.run import quiet_libraries
    from experiments.torture.__main__ import shrunk
    from rzero.processes.cpu import set_up_cpu

    started = time.monotonic()
    # every question somebody answered is kept: how good the rounds are does not matter here
    cfg = shrunk(f"iterations={rounds}", f"seed={seed}", "curriculum.rule.band.half_width=0.5", "collapse=warn")
    set_up_cpu(threads=cfg.threads, kernels=cfg.cpu_kernels)
    quiet_libraries()
    selfplay = composition.build(cfg, folder)
    gauge = selfplay.narrator = Gauge()
    try:
        selfplay.run()
    finally:
        selfplay.tracker.close()
    after = gauge.rows[::4]  # the base's evaluation, then four stages a round
    settled = after[SETTLED]
    return {
        "rounds": rounds,
        "seed": seed,
        "drift": {name: max(row[name] / settled[name] - 1 for row in after[SETTLED:]) for name in settled},
        "after_round": after,
        "seconds": round(time.monotonic() - started, 1),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--allowed", type=float, default=0.05, help="largest drift that is still flat (default 0.05)")
    parser.add_argument("--json", action="store_true", help="print the whole report as JSON")
    options = parser.parse_args(arguments)
    if options.rounds <= SETTLED:
        parser.error(f"--rounds must be more than {SETTLED}, got {options.rounds}")
    with tempfile.TemporaryDirectory(prefix="rzero-soak-") as folder:
        result = soak(options.rounds, seed=options.seed, folder=Path(folder))
    drift = result["drift"]
    print(json.dumps(result, indent=1) if options.json else ", ".join(f"{k} {v:+.1%}" for k, v in drift.items()))
    return 1 if max(drift.values()) > options.allowed else 0


if __name__ == "__main__":
    sys.exit(main())
