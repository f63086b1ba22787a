"""The sections of a report in their order, as text and tables; who renders them adds pictures or panels."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.reporting import content, iterations
from experiments.reporting.content import Section
from experiments.reporting.data import Run


def of_run(run: Run) -> list[Section]:
    return [
        content.header(run),
        content.results(run),
        iterations.measures(run),
        Section(id="training", title="Training"),
        iterations.examples(run),
        iterations.times(run),
    ]


def compared(runs: Sequence[Run]) -> Section:
    """Several runs beside one another."""
    return content.comparison(runs)


def run_heading(run: Run, *, number: int) -> Section:
    """Return what a run's sections stand under in a report of several."""
    return Section(id="heading", title=f"Run {number}: {run.name}, seed {run.seed}", depth=1)


def differences(runs: Sequence[Run]) -> list[str]:
    """Return the dotted keys whose values are not the same in all `runs`, seed apart: what an ablation varies."""
    flat = [_leaves(run.settings) for run in runs]
    keys = dict.fromkeys(key for leaves in flat for key in leaves)
    return [key for key in keys if any(leaves.get(key) != flat[0].get(key) for leaves in flat)]


def labels(runs: Sequence[Run]) -> list[str]:
    """Return what tells each run from the others: its name, and the settings in which runs of that name differ.

    `half_width=0.1`, `grpo, votes=4`, `random_reward`.
    """
    several_names = len({run.name for run in runs}) > 1
    result = []
    for run in runs:
        varied = differences([other for other in runs if other.name == run.name])
        own = _leaves(run.settings)
        told = [_told(key, own.get(key)) for key in varied[:LABEL_KEYS]]
        result.append(", ".join([run.name] * (several_names or not told) + told))
    return result


LABEL_KEYS = 3
"""Settings that a label names at most."""


def _told(key: str, value: object) -> str:
    """`half_width=0.1`; of a class its name, under the key of the part that it makes."""
    path, _, last = key.rpartition(".")
    if last == "_target_":
        return f"{path.rpartition('.')[2]}={str(value).rpartition('.')[2]}"
    return f"{last}={'none' if value is None else value}"


def _leaves(node: object, path: str = "") -> dict[str, object]:
    """Every value of a configuration by its dotted key; a list is one value."""
    if not isinstance(node, dict):
        return {path: node}
    parts = [_leaves(value, f"{path}.{key}" if path else str(key)) for key, value in node.items()]
    return {key: value for part in parts for key, value in part.items()}
