"""R-Zero with Qwen2.5-Coder-0.5B-Instruct on two CPU cores, and its controls: run one after the other, kept at once.

    python -m experiments.reproduce.half_billion                      # what is kept
    python -m experiments.reproduce.half_billion --run                # run what is missing; hours a run, resumable
    python -m experiments.reproduce.half_billion --run --arms rzero --seeds 0 --data-dir FOLDER

Without --data-dir the benchmarks come from the hub. --weights names a directory with the same weights, where they are
not those that `make models` brings. Two runs side by side, each with --threads 1, draw more tokens together than one
with two threads, which ends sooner (seen on two cores of Zen 5, experiments/LOG.md).

A run that is finished is kept in experiments/results/qwen2_5_coder_0_5b/ (at most 20 KB); one that was stopped goes on
from outputs/qwen2_5_coder_0_5b/. Behind the runs the base is asked once at the temperature of the votes: what certainty
gains without training. A second opinion on a run that is kept already (`experiments.second_opinion`) is added by the
same command, and the figures come from

    python -m experiments.results qwen2_5_coder_0_5b --seeds 0 1 2 --json

Exit codes: 0 done; 1 runs are missing, or the user stopped; 2 a wrong value or a failed run; 143 SIGTERM.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from experiments.command_line import WRONG, command_parser, complain
from experiments.paths import place
from experiments.reproduce.half_billion.study import STUDY
from experiments.reproduce.seeded import add_arguments, carry_out, on_machine


def main(arguments: Sequence[str] | None = None) -> int:
    parser = command_parser("experiments.reproduce.half_billion", __doc__)
    add_arguments(parser, STUDY)
    parser.add_argument("--data-dir", type=place, metavar="DIR", help="folder with the benchmarks as .jsonl files")
    parser.add_argument("--weights", metavar="PATH", help="directory or hub id of the same base model")
    parser.add_argument("--threads", type=int, metavar="N", help="threads of a run that is begun (those of its recipe)")
    options = parser.parse_args(arguments)
    try:
        study = on_machine(STUDY, data_dir=options.data_dir, weights=options.weights, threads=options.threads)
    except (OSError, ValueError) as error:
        complain(error)
        return WRONG
    return carry_out(study, options)


if __name__ == "__main__":
    sys.exit(main())
