"""Measure one part of the repository.

    python -m experiments.bench NAME [--json]

Times are CPU seconds of this machine; compare only figures of one run. Exit status 2 when a bench is not available.
"""

from __future__ import annotations

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


def main(arguments: Sequence[str] | None = None) -> int:
    parser = command_parser("experiments.bench", __doc__)
    parser.add_argument("name", choices=sorted(BENCHES), metavar="NAME", help=", ".join(sorted(BENCHES)))
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)

    def work() -> int:
        figures: Json = {}
        for place in BENCHES[options.name]:
            print(f"measuring {place} ...", file=sys.stderr)
            figures |= measure(place)()
        print(json.dumps(figures) if options.json else table(figures))
        return DONE

    return exit_code(work)


def measure(place: str) -> Callable[[], Json]:
    """Return the function at `module:function`. Raises ImportError saying what of it is missing."""
    module, function = place.split(":")
    try:
        found: Callable[[], Json] = getattr(importlib.import_module(f"{__package__}.{module}"), function)
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
