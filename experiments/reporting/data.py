"""What a run directory holds, read back. A run that is unfinished, was stopped or kept nothing reads just as well.

Nothing is recomputed here and no text of a model is interpreted: questions and answers stay the strings they are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from evaluation.metrics import Scores
from rzero.runs.bank import JsonlBank
from rzero.types import LabelledQuestion

Row = Mapping[str, float | None]
"""One line of metrics.jsonl; None stands for a number that was not finite."""

_NOT_THE_RECIPE = ("seed", "directory", "resume", "tracker")


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One iteration as far as it got; iteration 0 is the base model, which has `scores` only.

    challenger, solver: a row of metrics per training step. curriculum: the row of `curriculum/...` and `audit/...`
    (empty before the questions were posed). questions: every candidate posed in this iteration, kept or not. logged:
    all rows of the iteration, the evaluation's among them.
    """

    iteration: int
    scores: Scores | None
    challenger: tuple[Row, ...]
    solver: tuple[Row, ...]
    curriculum: Row
    questions: tuple[LabelledQuestion, ...]
    logged: tuple[Row, ...]

    @property
    def name(self) -> str:
        return f"round {self.iteration}" if self.iteration else "base"

    @property
    def kept_nothing(self) -> bool:
        """The questions were posed and none survived: the run ends here."""
        return self.curriculum.get("curriculum/kept") == 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run: `rounds[i]` is iteration i. `stages` maps "<iteration>/<stage>" to its summary and seconds."""

    path: Path
    name: str
    seed: int
    planned: int
    config: DictConfig
    manifest: Mapping[str, Any]
    stages: Mapping[str, Mapping[str, Any]]
    rounds: tuple[Round, ...]

    @property
    def base(self) -> Scores | None:
        return self.rounds[0].scores

    @property
    def trained(self) -> tuple[Round, ...]:
        """The rounds after the base model."""
        return self.rounds[1:]

    @property
    def evaluated(self) -> tuple[Round, ...]:
        """Every round with scores, the base model included."""
        return tuple(turn for turn in self.rounds if turn.scores is not None)

    @property
    def done(self) -> int:
        """Iterations that ended with their evaluation."""
        return sum(turn.scores is not None for turn in self.trained)

    @property
    def settings(self) -> dict[str, Any]:
        """The configuration without seed and places, interpolations as they are written."""
        config: Any = OmegaConf.to_container(self.config, resolve=False)
        return {key: value for key, value in config.items() if key not in _NOT_THE_RECIPE}

    @property
    def recipe(self) -> str:
        """Equal for runs that differ in nothing but seed and place."""
        return json.dumps(self.settings, sort_keys=True)

    @property
    def logged(self) -> set[str]:
        """The name of every metric that was logged in a round."""
        return {name for turn in self.rounds for row in turn.logged for name in row}


def read_run(path: Path) -> Run:
    """Raises FileNotFoundError when `path` is no run, ValueError naming the file when one of its files is damaged."""
    if not (path / "config.yaml").is_file():
        raise FileNotFoundError(f"{path} is no run directory (it holds no config.yaml); give the directory of a run")
    config = OmegaConf.load(path / "config.yaml")
    if not isinstance(config, DictConfig):
        raise ValueError(f"{path / 'config.yaml'} is no configuration of a run; restore it")
    rows = _read_rows(path / "metrics.jsonl")
    last = max([0, *(int(row["iteration"] or 0) for row in rows), *_evaluated_iterations(path)])
    return Run(
        path=path,
        name=str(config.name),
        seed=int(config.seed),
        planned=int(config.iterations),
        config=config,
        manifest=_read_object(path / "run.json"),
        stages=_read_object(path / "state.json").get("stages", {}),
        rounds=tuple(_read_round(path, iteration, rows) for iteration in range(last + 1)),
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


def _read_round(path: Path, iteration: int, rows: list[Row]) -> Round:
    mine = [row for row in rows if row["iteration"] == iteration]
    scores = path / f"iteration_{iteration}" / "evaluation.json"
    bank = JsonlBank(path / "questions")
    posed = bank.get(iteration) if bank.path(iteration).is_file() else []
    return Round(
        iteration=iteration,
        scores=_read_scores(scores) if scores.is_file() else None,
        challenger=tuple(row for row in mine if "challenger/reward" in row),
        solver=tuple(row for row in mine if "solver/reward" in row),
        curriculum=next((row for row in mine if "curriculum/candidates" in row), {}),
        questions=tuple(question for question in posed if question.iteration == iteration),  # the rest is replay
        logged=tuple(mine),
    )


def _read_scores(path: Path) -> Scores:
    try:
        return Scores.from_json(_read_object(path))
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} holds no scores ({error!r}); restore it or leave this run out") from error


def _evaluated_iterations(path: Path) -> list[int]:
    names = [found.parent.name.removeprefix("iteration_") for found in path.glob("iteration_*/evaluation.json")]
    return [int(name) for name in names if name.isdecimal()]


def _read_rows(path: Path) -> list[Row]:
    """Complete lines only: a run that was killed may have left half a line, which its resumption cuts off."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    rows = [json.loads(line) for line in lines if line]
    return [row for row in rows if row.get("iteration") is not None]


def _read_object(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); restore it or leave this run out") from error
    if not isinstance(data, dict):
        raise ValueError(f"{path} holds no JSON object; restore it or leave this run out")
    return data
