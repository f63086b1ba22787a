"""Measure one part of the repository.

    python -m experiments.bench NAME [--json]

Times are CPU seconds of this machine; compare only figures of one run. Exit status 2 when a bench is not available.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Sequence

from experiments.command_line import DONE, WRONG, command_parser, complain
from rzero.types import Json

# name -> the functions that measure it, as module:function of this package; their figures are merged
BENCHES = {
    "rewards": ("repetition:run", "votes:bench_votes"),
    "rollout": ("rollout:run",),
    "grpo": ("grpo:run",),
    "memory": ("memory:run",),
    "wire": ("wire:run",),
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = command_parser("experiments.bench", __doc__)
    parser.add_argument("name", choices=sorted(BENCHES), metavar="NAME", help=", ".join(sorted(BENCHES)))
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)
    figures: Json = {}
    for place in BENCHES[options.name]:
        module, function = place.split(":")
        try:
            measure = getattr(importlib.import_module(f"{__package__}.{module}"), function)
        except (ModuleNotFoundError, AttributeError) as missing:
            complain(f"bench {options.name!r} needs {__package__}.{place}: {missing}")
            return WRONG
        print(f"measuring {place} ...", file=sys.stderr)
        figures |= measure()
    print(json.dumps(figures) if options.json else table(figures))
    return DONE


def table(figures: Json) -> str:
    """Return one line per figure."""
    width = max(len(name) for name in figures)
    return "\n".join(f"{name:<{width}}  {_short(value)}" for name, value in figures.items())


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main())
