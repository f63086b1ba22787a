"""Run directories read back. A run that is unfinished, was stopped or kept nothing reads just as well.

Nothing is recomputed here and no text of a model is interpreted: questions and answers stay the strings they are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from evaluation.metrics import Scores
from experiments.recipe import recipe
from rzero.runs.bank import JsonlBank
from rzero.runs.directory import RunDirectory
from rzero.types import Json, LabelledQuestion

Row = Mapping[str, float | None]
"""One line of metrics.jsonl; None stands for a number that was not finite."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Iteration:
    """One iteration as far as it got; number 0 is the base model, which has `scores` only.

    truncated: by benchmark and decoding the share in [0, 1] of the responses that ran into the token limit; empty for
    runs that did not write it down.
    challenger, solver: a row of metrics per training step. curriculum: the row of `curriculum/...` and `audit/...`
    (empty before the questions were posed). questions: every candidate posed in this iteration, kept or not. logged:
    all rows of the iteration, the evaluation's among them.
    """

    number: int
    scores: Scores | None
    truncated: Mapping[str, Mapping[str, float]]
    challenger: tuple[Row, ...]
    solver: tuple[Row, ...]
    curriculum: Row
    questions: tuple[LabelledQuestion, ...]
    logged: tuple[Row, ...]

    @property
    def name(self) -> str:
        return iteration_name(self.number)

    @property
    def kept_nothing(self) -> bool:
        """The questions were posed and none survived: the run ends here."""
        return self.curriculum.get("curriculum/kept") == 0.0


def iteration_name(number: int) -> str:
    """Return what an iteration is called where people read it."""
    return f"iteration {number}" if number else "base"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run: `iterations[i]` is iteration i. `stages` maps "<iteration>/<stage>" to its summary and seconds."""

    path: Path
    name: str
    seed: int
    planned: int
    config: DictConfig
    manifest: Json
    stages: Mapping[str, Json]
    iterations: tuple[Iteration, ...]

    @property
    def directory(self) -> RunDirectory:
        """Where each of its files lies."""
        return RunDirectory(self.path)

    @property
    def base(self) -> Scores | None:
        return self.iterations[0].scores

    @property
    def trained(self) -> tuple[Iteration, ...]:
        """The iterations after the base model."""
        return self.iterations[1:]

    @property
    def scores(self) -> tuple[tuple[int, Scores], ...]:
        """Number and scores of every iteration that was evaluated, the base model's (0) included."""
        return tuple((iteration.number, iteration.scores) for iteration in self.iterations if iteration.scores)

    @property
    def done(self) -> int:
        """Iterations that ended with their evaluation."""
        return sum(iteration.scores is not None for iteration in self.trained)

    @property
    def settings(self) -> Json:
        """The recipe (`experiments.recipe`) without the seed, interpolations as they are written."""
        return {key: value for key, value in recipe(self.config).items() if key != "seed"}

    @property
    def recipe(self) -> str:
        """Equal for runs that differ in nothing but seed, name and place."""
        return json.dumps(self.settings, sort_keys=True)

    @property
    def logged(self) -> set[str]:
        """The name of every metric that was logged in an iteration."""
        return {name for iteration in self.iterations for row in iteration.logged for name in row}


def require_run(path: Path) -> RunDirectory:
    """Return where the files of a run are. Raises FileNotFoundError when `path` is none."""
    there = RunDirectory(path)
    if not there.config.is_file():
        raise FileNotFoundError(f"{path} is no run directory (it holds no config.yaml); give the directory of a run")
    return there


def read_run(path: Path) -> Run:
    """Raises FileNotFoundError when `path` is no run, ValueError naming the file when one of its files is damaged."""
    there = require_run(path)
    config = OmegaConf.load(there.config)
    if not isinstance(config, DictConfig):
        raise ValueError(f"{there.config} is no configuration of a run; restore it")
    rows = _read_rows(there.metrics)
    last = max([0, *(int(row["iteration"] or 0) for row in rows), *there.evaluated()])
    return Run(
        path=path,
        name=str(config.name),
        seed=int(config.seed),
        planned=int(config.iterations),
        config=config,
        manifest=_read_object(there.manifest),
        stages=_read_object(there.state).get("stages", {}),
        iterations=tuple(_read_iteration(there, number, rows) for number in range(last + 1)),
    )


def band(config: DictConfig) -> tuple[float, float] | None:
    """Lowest and highest agreement that is kept; None when the curriculum has no band.

    Rules may wrap one another (curriculum.rule.rule...), the innermost one holds the band.
    """
    rule = "curriculum.rule"
    while OmegaConf.select(config, f"{rule}.rule") is not None:
        rule += ".rule"
    node = OmegaConf.select(config, f"{rule}.band")
    if not isinstance(node, DictConfig):
        return None
    if "half_width" in node:
        return node.centre - node.half_width, node.centre + node.half_width
    if "low" in node and "high" in node:
        return float(node.low), float(node.high)
    return None


def wall_seconds(run: Run) -> tuple[float, bool]:
    """Seconds of all attempts, and whether that is everything: a stopped attempt counts with its complete stages."""
    attempts = run.manifest.get("attempts", [])
    if attempts and all("finished_unix_s" in attempt for attempt in attempts):
        return sum(attempt["finished_unix_s"] - attempt["started_unix_s"] for attempt in attempts), True
    return sum(stage.get("seconds", 0.0) for stage in run.stages.values()), False


def _read_iteration(there: RunDirectory, number: int, rows: list[Row]) -> Iteration:
    mine = [row for row in rows if row["iteration"] == number]
    posed = JsonlBank(there).get(number) if there.questions(number).is_file() else []
    evaluation = _read_object(there.scores(number)) if there.scores(number).is_file() else None
    return Iteration(
        number=number,
        scores=None if evaluation is None else _scores(evaluation, there.scores(number)),
        truncated=(evaluation or {}).get("truncated", {}),
        challenger=tuple(row for row in mine if "challenger/reward" in row),
        solver=tuple(row for row in mine if "solver/reward" in row),
        curriculum=next((row for row in mine if "curriculum/candidates" in row), {}),
        questions=tuple(question for question in posed if question.iteration == number),  # the rest is replay
        logged=tuple(mine),
    )


def _scores(evaluation: Json, path: Path) -> Scores:
    try:
        return Scores.from_json(evaluation)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} holds no scores ({error!r}); restore it or leave this run out") from error


def _read_rows(path: Path) -> list[Row]:
    """Complete lines only: a run that was killed may have left half a line, which its resumption cuts off."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    rows = [json.loads(line) for line in lines if line]
    return [row for row in rows if row.get("iteration") is not None]


def _read_object(path: Path) -> Json:
    if not path.is_file():
        return {}
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); restore it or leave this run out") from error
    if not isinstance(data, dict):
        raise ValueError(f"{path} holds no JSON object; restore it or leave this run out")
    return data
