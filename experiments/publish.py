"""Publish a finished run: Solver, Challenger and question set as the Hugging Face hub expects them.

    python -m experiments.publish RUN                              # to RUN/published/; needs no network
    python -m experiments.publish RUN --push owner/name            # and to owner/name-solver, -challenger, -questions
    python -m experiments.publish RUN --iteration 2 --output DIR
    python -m experiments.publish RUN --push owner/name --update   # a new commit where they exist already

Each is a folder with its card: scores, recipe, lineage and the licence of the base model; `recipe.yaml` is the
configuration. Adapters are merged. Questions in which one of a benchmark of the run stands word for word are left
out, and no path, address or name of this machine is written. transformers loads RUN/published/solver, datasets
RUN/published/questions. A token is read from HF_TOKEN or from `hf auth login`.

Exit codes: 0 written (and pushed); 1 stopped by the user; 2 a wrong path or name, a run that is not finished, no token,
a repository that exists, or a hub that refuses.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from experiments.command_line import DONE, command_parser, exit_code
from experiments.export import DTYPES
from experiments.paths import place


def main(arguments: Sequence[str] | None = None) -> int:
    parser = command_parser("experiments.publish", __doc__)
    parser.add_argument("run", type=place, metavar="RUN", help="directory of a finished run")
    parser.add_argument("--push", metavar="OWNER/NAME", help="send them to the hub under this name and -<kind>")
    parser.add_argument("--update", action="store_true", help="add a commit to repositories that exist already")
    parser.add_argument("--private", action="store_true", help="make the repositories private")
    parser.add_argument("--iteration", type=int, help="after which iteration; default: the last")
    parser.add_argument("--dtype", choices=DTYPES, help="of the weights; default: the run's, with adapters float32")
    parser.add_argument("--data-dir", type=place, metavar="FOLDER", help="where its benchmarks lie, without a hub")
    parser.add_argument("--output", type=place, metavar="DIR", help="default: RUN/published")
    options = parser.parse_args(arguments)
    if (options.update or options.private) and not options.push:
        parser.error("--update and --private go with --push OWNER/NAME")

    def work() -> int:
        from experiments.publishing.publication import publish

        publish(
            options.run,
            pushed_as=options.push,
            update=options.update,
            private=options.private,
            iteration=options.iteration,
            dtype=options.dtype,
            data_dir=options.data_dir,
            output=options.output,
        )
        return DONE

    return exit_code(work, stopped="the same command does it again (with --update where repositories exist)")


if __name__ == "__main__":
    sys.exit(main())
