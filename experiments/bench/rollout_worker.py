"""A side of the rollout bench of a language model, in a process of its own.

    python -m experiments.bench.rollout_worker SIDE SETTINGS

`python -m experiments.bench rollout --model MODEL` starts these and tells them by standard input what to draw.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence

from experiments.bench.sides import answer
from experiments.command_line import DONE, command_parser, exit_code
from rzero.types import Json

Draw = Callable[[int], int]
"""Draws completions of so many tokens and returns how many tokens that is in all."""

Facts = Callable[[], Json]
"""Measures or counts what rates are compared with."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = command_parser("experiments.bench.rollout_worker", __doc__)
    sides = ("torch", "vllm_float32", "vllm_bfloat16", "vllm_w8a8")
    parser.add_argument("side", choices=sides, metavar="SIDE", help=", ".join(sides))
    parser.add_argument("settings", type=json.loads, metavar="SETTINGS", help="what is drawn, as JSON")
    options = parser.parse_args(arguments)

    def work() -> int:
        from experiments.bench.rollout_sides import sides_of

        _serve(*sides_of(options.side, options.settings))
        return DONE

    return exit_code(work)


def _serve(sides: dict[str, Draw], facts: Facts, *, warm: int = 4) -> None:
    """Answers commands until the parent closes: a side's name, `warm up` before it, or `facts`."""
    for line in sys.stdin:
        command = line.strip()
        if command == "facts":
            answer(facts())
            continue
        draw, start = sides[command.removeprefix("warm up ")], time.perf_counter()
        tokens = draw(warm if command.startswith("warm up ") else 0)
        answer({"tokens": tokens, "seconds": time.perf_counter() - start})


if __name__ == "__main__":
    sys.exit(main())
