"""Kill runs wherever it can hurt and compare how they end with a run that nobody touched.

    python -m experiments.torture --kills 40 --seed 0 --json

The whole process group gets SIGKILL: at every commit by name (before and after it), at random instants, a third of them
during the recovery from an earlier kill, and at random system calls. A killed run is resumed until it ends; its metrics
(without times), questions, labels, scores and weights must have the sha256 of the untouched run's.
Exit codes: 0 all equal, 1 some differ, 2 a wrong value.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console

from experiments.command_line import DONE, UNMET, command_parser, exit_code
from experiments.compose import compose
from experiments.terminal import progress
from experiments.torture.attempts import attempt, end_state, uncommitted_rows
from experiments.torture.plan import Kill, in_recovery, plan, sooner
from rzero.types import Json


def warm_up(cfg: DictConfig, folder: Path) -> None:
    """Import, once and before the forks, what every attempt needs: that takes longer than a run."""
    import torch

    from experiments import composition

    torch.set_num_threads(1)
    selfplay = composition.build(cfg, folder / "warm")
    selfplay.close()
    selfplay.weights.load("solver", 0)
    selfplay.make_trainer()


def torture(cfg: DictConfig, *, kills: int, seed: int, folder: Path) -> Json:
    """Carry out a plan of `kills` in runs below `folder`; return the report that the command prints."""
    started, log = time.monotonic(), folder / "log"
    attempt(cfg, folder / "untouched", log=log)
    seconds, expected = time.monotonic() - started, end_state(folder / "untouched")
    waiting = list(reversed(plan(cfg, kills=kills, seed=seed, seconds=seconds)))
    done: list[Kill] = []
    differences: list[str] = []
    runs = restarts = repeated = 0
    with progress("kills", total=len(waiting), console=Console(stderr=True)) as meter:
        while waiting:
            directory = folder / f"run{runs}"
            ended = False
            while not ended:
                kill = waiting[-1] if waiting else None
                ended = attempt(cfg, directory, kill=kill, log=log)
                if ended and kill is not None:
                    waiting[-1] = sooner(kill)
                elif kill is not None:
                    done.append(waiting.pop())
                    meter.advance(directory.name)
                    restarts += 1
                    repeated = max(repeated, uncommitted_rows(directory))
            runs += 1
            differences += [f"{directory.name}: {what}" for what in differing(expected, end_state(directory))]
    return {
        "kills": len(done),
        "seed": seed,
        "by_kind": {kind: sum(type(kill).__name__ == kind for kill in done) for kind in KINDS},
        "in_recovery": in_recovery(done, seconds=seconds),
        "restarts": restarts,
        "runs": runs,
        "differing": len(differences),
        "differences": differences,
        "most_rows_repeated": repeated,
        "untouched_seconds": round(seconds, 2),
        "seconds": round(time.monotonic() - started, 1),
    }


KINDS = ("AtBoundary", "AtInstant", "AtCall")


def differing(expected: dict[str, str], found: dict[str, str]) -> list[str]:
    """Return the names of what is missing, superfluous or different."""
    return sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = command_parser("experiments.torture", __doc__)
    parser.add_argument("--kills", type=int, default=40, help="how often a process group is killed (default 40)")
    parser.add_argument("--seed", type=int, default=0, help="of the random instants and calls (default 0)")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    options = parser.parse_args(arguments)
    if options.kills < 1:
        parser.error(f"--kills must be at least 1, got {options.kills}")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads would not survive a fork

    def work() -> int:
        cfg = compose("experiment=shrunk")
        with tempfile.TemporaryDirectory(prefix="rzero-torture-") as folder:
            warm_up(cfg, Path(folder))
            result = torture(cfg, kills=options.kills, seed=options.seed, folder=Path(folder))
        if options.json:
            print(json.dumps(result, indent=1))
        else:
            print(f"{result['kills']} kills, {result['runs']} runs compared, {result['differing']} differences")
            print(*result["differences"], sep="\n")
        return UNMET if result["differing"] else DONE

    return exit_code(work)


if __name__ == "__main__":
    sys.exit(main())
