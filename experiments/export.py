"""Write a role's weights as an ordinary Hugging Face directory, adapters merged into the weights below them.

    python -m experiments.export RUN                                      # the last Solver, to RUN/exported/
    python -m experiments.export RUN --role challenger --iteration 2 --output DIR
    python -m experiments.export RUN --dtype bfloat16                     # half the size; small deltas are rounded away

A run with LoRA leaves adapters and needs no export to go on, to be evaluated or to be reported.

Exit codes: 0 written, 2 a wrong path, a damaged file or a role that was not trained.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from omegaconf import OmegaConf

from experiments.command_line import DONE, command_parser, exit_code, say
from experiments.parts import made
from experiments.paths import place
from experiments.recipe import modern
from experiments.reporting.data import read_run, require_run
from experiments.resolvers import register_resolvers
from experiments.terminal import quiet_libraries, waiting
from rzero.roles import Role

DTYPES = ("float32", "bfloat16")


def export(path: Path, *, role: Role, iteration: int | None, dtype: str, output: Path | None) -> Path:
    """Returns the directory that was written.

    Raises ValueError when that role has the weights of the base model then, FileNotFoundError when `path` is no run.
    """
    import torch

    from experiments import composition
    from rzero.runs.weights import Weights

    run = read_run(path)
    register_resolvers(path)
    config = modern(run.config)
    plain = OmegaConf.merge(config.policy, {"lora": None, "dtype": "float32"})
    make = composition.policy_loader(plain)  # type: ignore[arg-type]
    weights = Weights(
        base=str(config.policy.path_or_id), make=make, directory=run.directory, roles=made(config, "roles")
    )
    last = max(run.directory.iterations(), default=0) if iteration is None else iteration
    if weights.trained(role, last) is None:
        raise ValueError(f"{path}: the {role} of iteration {last} has the weights of {config.policy.path_or_id}")
    policy = weights.load(role, last)
    policy.model.to(getattr(torch, dtype))
    target = output or path / "exported" / weights.name(role, last)
    target.parent.mkdir(parents=True, exist_ok=True)
    policy.save(target)
    return target


def main(arguments: Sequence[str] | None = None) -> int:
    parser = command_parser("experiments.export", __doc__)
    parser.add_argument("run", type=place, metavar="RUN", help="directory of a run")
    parser.add_argument("--role", choices=get_args(Role), default="solver", help="whose weights (solver)")
    parser.add_argument("--iteration", type=int, help="after which iteration; default: the last")
    parser.add_argument("--dtype", choices=DTYPES, default=DTYPES[0], help="what weights are written in (float32)")
    parser.add_argument("--output", type=place, metavar="DIR", help="default: RUN/exported/<role>_<iteration>")
    options = parser.parse_args(arguments)

    def work() -> int:
        require_run(options.run)
        quiet_libraries()
        with waiting(f"reading and writing the weights of {options.run}"):
            target = export(
                options.run, role=options.role, iteration=options.iteration, dtype=options.dtype, output=options.output
            )
        say(f"written: {target}")
        return DONE

    return exit_code(work)


if __name__ == "__main__":
    sys.exit(main())
