"""A side of the GRPO benchmark in a process of its own: prompts, reward, and taking steps on command.

    python -m experiments.bench.grpo_worker SIDE SETTINGS

`python -m experiments.bench grpo` starts these and tells them by standard input when to take a step.
"""

from __future__ import annotations

import importlib
import json
import random
import resource
import sys
from collections.abc import Sequence

from evaluation.micro.world import FAMILIES
from experiments.bench.sides import answer
from experiments.bench.subject import problems
from experiments.command_line import DONE, command_parser, exit_code

LEVEL = 6


SIDES = ("ours", "trl")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = command_parser("experiments.bench.grpo_worker", __doc__)
    parser.add_argument("side", choices=SIDES, metavar="SIDE", help=", ".join(SIDES))
    parser.add_argument("settings", type=json.loads, metavar="SETTINGS", help="the work of a step, as JSON")
    options = parser.parse_args(arguments)

    def work() -> int:
        importlib.import_module(f"{__package__}.grpo_{options.side}").take_steps(options.settings)
        return DONE

    return exit_code(work)


def questions(count: int, *, kind: str) -> list[str]:
    """`sums` of the micro world whose worked answers are of middling length, or school `problems`."""
    if kind == "problems":
        return problems(count)
    rng, family = random.Random(0), FAMILIES["sum"]
    return [family.write(family.make(rng, LEVEL)) for _ in range(count)]


def rewards(texts: Sequence[str]) -> list[float]:
    """Cheap, and different within a group: how many sevens a response has."""
    return [text.count("7") / (1 + len(text)) for text in texts]


def wait_for_step() -> str:
    """The parent's next command that asks for a step (`warm up`, `go`, `profile`); `rss` is answered here."""
    for line in sys.stdin:
        if line.strip() != "rss":
            return line.strip()
        answer({"peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024})
    sys.exit(0)


if __name__ == "__main__":
    sys.exit(main())
