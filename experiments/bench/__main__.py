"""Measure one part of the repository.

    python -m experiments.bench NAME [--json]
    python -m experiments.bench rollout --model qwen2_5_coder_0_5b --json     # in int8, two threads, wall time
    python -m experiments.bench grpo --model qwen2_5_coder_0_5b --json        # a whole step against TRL's

Times are CPU seconds of this machine unless said otherwise; compare only figures of one run. Exit status 2 when a bench
is not available.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Callable, Sequence

from experiments.command_line import DONE, command_parser, exit_code
from rzero.types import Json

# name -> the functions that measure it, as module:function of this package; their figures are merged
BENCHES = {
    "rewards": ("repetition:run", "votes:bench_votes"),
    "rollout": ("rollout:run",),
    "grpo": ("grpo:run",),
    "memory": ("memory:run",),
    "wire": ("wire:run",),
}

WITH_MODEL = {"rollout": "rollout_model:run", "grpo": "grpo_model:run"}
"""Benches that a language model can be named for (--model): what measures it."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = command_parser("experiments.bench", __doc__)
    parser.add_argument("name", choices=sorted(BENCHES), metavar="NAME", help=", ".join(sorted(BENCHES)))
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--model", help="a file of conf/policy, a directory or a hub id (rollout, grpo)")
    parser.add_argument("--rows", type=int, help="completions side by side (rollout --model; default: 64)")
    parser.add_argument("--small", action="store_true", help="with --model: very little work, to see that it runs")
    options = parser.parse_args(arguments)

    def work() -> int:
        figures: Json = {}
        for place, given in _chosen(options).items():
            print(f"measuring {place} ...", file=sys.stderr)
            figures |= measure(place)(**given)
        print(json.dumps(figures) if options.json else table(figures))
        return DONE

    return exit_code(work)


def _chosen(options: argparse.Namespace) -> dict[str, Json]:
    """Returns what is measured and with which arguments. Raises ValueError for options that the bench does not take."""
    given = {key: value for key in ("rows", "small") if (value := getattr(options, key))}
    if options.model is None:
        if given:
            raise ValueError(f"--{next(iter(given))} goes with --model")
        return {place: {} for place in BENCHES[options.name]}
    if options.name not in WITH_MODEL or (options.rows and options.name != "rollout"):
        raise ValueError(f"{options.name} takes no --{'rows' if options.name in WITH_MODEL else 'model'}")
    return {WITH_MODEL[options.name]: {"model": options.model, **given}}


def measure(place: str) -> Callable[..., Json]:
    """Return the function at `module:function`. Raises ImportError saying what of it is missing."""
    module, function = place.split(":")
    try:
        found: Callable[..., Json] = getattr(importlib.import_module(f"{__package__}.{module}"), function)
    except (ModuleNotFoundError, AttributeError) as missing:
        raise ImportError(f"it needs {__package__}.{place}: {missing}") from None
    return found


def table(figures: Json) -> str:
    """Return one line per figure."""
    width = max(len(name) for name in figures)
    return "\n".join(f"{name:<{width}}  {_short(value)}" for name, value in figures.items())


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main())
