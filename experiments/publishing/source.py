"""What is published of: a finished run, one of its iterations, and the proof that its files are what was written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

from omegaconf import DictConfig

from experiments import rundir
from experiments.parts import made
from experiments.recipe import modern
from experiments.reporting.data import Run, read_run
from experiments.resolvers import register_resolvers
from rzero.policy import load_policy
from rzero.roles import Role
from rzero.runs.ledger import Ledger
from rzero.runs.weights import Weights


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A finished run after iteration `until`. trained: where a role's weights lie; others are the base's."""

    run: Run
    until: int
    config: DictConfig
    weights: Weights
    trained: Mapping[Role, Path]


def read_source(path: Path, *, iteration: int | None) -> Source:
    """Returns what is to be published of the run at `path`; without an iteration it is the last.

    Raises ValueError when the run is not finished, has no such iteration, or trained neither role until then.
    """
    run = read_run(path)
    if not rundir.finished(path):
        raise ValueError(f"{path} is not finished; go on with it first: python -m experiments.run resume={path}")
    last = run.trained[-1].number if run.trained else 0
    until = last if iteration is None else iteration
    if not 1 <= until <= last:
        raise ValueError(f"{path} has iterations 1 to {last}, not {until}")
    register_resolvers(path)
    config = modern(run.config)
    base, roles = str(config.policy.path_or_id), made(config, "roles")
    weights = Weights(base=base, make=load_policy, directory=run.directory, roles=roles)
    trained: dict[Role, Path] = {role: found for role in get_args(Role) if (found := weights.trained(role, until))}
    if not trained:
        raise ValueError(f"{path}: neither role was trained; both have the weights of the base model")
    return Source(run=run, until=until, config=config, weights=weights, trained=trained)


def require_whole(source: Source, *, checked: Callable[[int], None]) -> None:
    """Compares what is published, and what its numbers come from, with the sha256 in the ledger.

    checked: called with the bytes of the weights that were compared. Raises ValueError naming a damaged file.
    """
    path, there = source.run.path, source.run.directory
    metrics = there.metrics.read_bytes() if there.metrics.is_file() else b""
    published = {str(folder.relative_to(path)) for folder in source.trained.values()}
    for stage, commit in Ledger.open(there.state).stages.items():
        iteration, _, kind = stage.partition("/")
        folder = f"iteration_{iteration}/{kind}"
        if kind in get_args(Role) and folder not in published:
            commit = replace(commit, files={})  # terabytes may lie there that nobody is about to read
        if reason := commit.damage(path, metrics):
            raise ValueError(f"{path} is damaged: {reason}; it is mended by resuming the run")
        if folder in published:
            checked(size(path / folder))


def size(folder: Path) -> int:
    """Returns the bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
