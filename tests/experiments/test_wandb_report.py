"""The report at W&B: its panels as data, its blocks as W&B's own objects, and what holds where W&B is out of reach."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from experiments import report
from experiments.reporting import outline, plots, wandb_report
from experiments.reporting.data import Run, read_run
from experiments.reporting.panels import Bars, Block, Curves, LoggedTable, blocks
from rzero.tracking.weights_and_biases import KEY, Identity
from tests.experiments.runs import RunWriter, finished_run

BAND = {"_target_": "rzero.curriculum.BandCurriculum", "band": {"centre": 0.5, "half_width": 0.1}}


def tracked(path: Path, *, name: str) -> Path:
    """As the W&B tracker leaves it."""
    Identity(id=name, project="rzero", entity="us", mode="online", name=name, group="g").write(path)
    return path


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two seeds of one recipe, and one run with a narrower band."""
    folder = tmp_path_factory.mktemp("runs")
    seeds = [finished_run(folder / f"seed{seed}", seed=seed).path for seed in (0, 1)]
    narrow = finished_run(folder / "narrow", curriculum={"rule": BAND}).path
    return [tracked(path, name=f"id{number}") for number, path in enumerate([*seeds, narrow])]


@pytest.fixture(scope="module")
def runs(paths: list[Path]) -> list[Run]:
    return [read_run(path) for path in paths]


def named(made: list[Block]) -> dict[str, tuple[int, ...]]:
    """Every metric that a panel draws, with the runs it draws it for."""
    plots = [(panel, block) for block in made for panel in block.panels if isinstance(panel, Curves | Bars)]
    return {metric: block.runs for panel, block in plots for metric in panel.metrics}


def test_every_metric_that_a_panel_names_exists_in_the_run(runs: list[Run]) -> None:
    rows = [json.loads(line) for line in (runs[0].path / "metrics.jsonl").read_text().split("\n") if line]
    there = {name for row in rows for name in row}
    wanted = named(blocks(runs[:1]))
    assert wanted.keys() <= there
    assert {"evaluation/overall", "challenger/reward", "solver/kl", "audit/label_accuracy_kept"} <= wanted.keys()
    assert {"evaluation/sum/mean@k", "evaluation/story/mean@k", "curriculum/kept"} <= wanted.keys()


def test_the_report_has_the_sections_of_the_local_one(runs: list[Run]) -> None:
    assert [block.section for block in blocks(runs[:1])] == outline.of_run(runs[0])
    titles = [block.section.title for block in blocks(runs)]
    assert titles[:2] == ["Comparison", "Run 1: micro, seed 0"]
    assert titles.count("Training") == 3


def test_training_is_drawn_over_steps_and_scores_over_iterations(runs: list[Run]) -> None:
    curves = [panel for block in blocks(runs[:1]) for panel in block.panels if isinstance(panel, Curves)]
    axes = {metric: panel.x for panel in curves for metric in panel.metrics}
    assert (axes["solver/reward"], axes["evaluation/overall"]) == ("Step", "iteration")
    assert LoggedTable(key="questions") in [panel for block in blocks(runs[:1]) for panel in block.panels]


def test_an_ablation_is_grouped_by_what_it_varies(runs: list[Run]) -> None:
    [bars] = [panel for panel in blocks(runs)[0].panels if isinstance(panel, Bars)]
    assert bars.by == "curriculum.rule.band.half_width"
    assert outline.labels(runs) == ["half_width=0.25", "half_width=0.25", "half_width=0.1"]
    assert outline.labels(runs[:2]) == ["micro", "micro"]
    [bars] = [panel for panel in blocks(runs[:2])[0].panels if isinstance(panel, Bars)]
    assert bars.by is None
    assert named(blocks(runs))["solver/reward"] == (2,)


def test_a_run_that_has_only_begun_has_no_empty_panels(tmp_path: Path) -> None:
    RunWriter(tmp_path / "run").evaluate(0)
    begun = blocks([read_run(tmp_path / "run")])
    assert named(begun).keys() <= read_run(tmp_path / "run").logged
    assert not any(isinstance(panel, LoggedTable) for block in begun for panel in block.panels)


@pytest.mark.filterwarnings("ignore:Pydantic V1 style")  # wandb-workspaces' own validators
def test_wandb_accepts_the_blocks(runs: list[Run]) -> None:
    import wandb_workspaces.reports.v2 as wr

    made = wandb_report.build(runs, known=wandb_report.identities(runs))
    grids = [block for block in made.blocks if isinstance(block, wr.PanelGrid)]
    assert [grid.runsets[0].filters for grid in grids][:2] == [
        "Metric('ID') in ['id0', 'id1', 'id2']",
        "Metric('ID') in ['id0']",
    ]
    assert sum(isinstance(panel, wr.WeavePanelSummaryTable) for grid in grids for panel in grid.panels) == 3
    assert (made.entity, made.project, made.title) == ("us", "rzero", "R-Zero: 3 runs")
    assert any("| MATH AVG |" in block.text for block in made.blocks if isinstance(block, wr.MarkdownBlock))


def test_the_ablation_is_drawn_for_several_recipes(runs: list[Run]) -> None:
    [several] = [drawing for drawing in plots.OF_SEVERAL if drawing.name == "ablation"]
    assert several.there(runs)
    figure = plots.ablation(runs)
    [axes] = figure.axes
    assert [text.get_text() for text in axes.get_yticklabels()] == ["half_width=0.25", "half_width=0.1"]
    overall = [run.scores[-1][1].overall for run in runs]
    widths = [bar.get_width() for bar in axes.patches]  # type: ignore[attr-defined]
    assert widths == pytest.approx([(overall[0] + overall[1]) / 2, overall[2]])
    assert not several.there(runs[:2])


@pytest.fixture
def local(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where the local report is said to be; writing it is tested elsewhere and takes seconds."""
    monkeypatch.setattr(report, "write_report", lambda runs, *, output: output / "report.html")
    return tmp_path


def test_without_a_key_the_report_is_local_and_says_so(
    paths: list[Path], local: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(KEY, raising=False)
    assert report.main([*map(str, paths), "--wandb", "--output", str(local)]) == 0
    where, why = capsys.readouterr().out.splitlines()
    assert where == f"report: {local / 'report.html'}"
    assert (
        why == "W&B: not saved, there is no WANDB_API_KEY in the environment; the same content is in the report above"
    )


def test_online_the_report_is_saved(
    paths: list[Path], local: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import wandb.errors

    answers: list[Any] = ["https://wandb.example/report", wandb.errors.CommError("no network\x1b[2J")]

    class Report:
        url = "https://wandb.example/report"

        def save(self) -> None:
            if isinstance(answer := answers.pop(0), Exception):
                raise answer

    monkeypatch.setenv(KEY, "k")
    monkeypatch.setattr(wandb_report, "build", lambda runs, *, known: Report())
    command = [str(paths[0]), "--wandb", "--output", str(local)]
    assert report.main(command) == 0
    assert capsys.readouterr().out.endswith("W&B: https://wandb.example/report\n")
    assert report.main(command) == 0
    assert "not saved, W&B did not take it (no network\\x1b[2J)" in capsys.readouterr().out


def test_runs_that_wandb_does_not_know_are_named(runs: list[Run], tmp_path: Path) -> None:
    stranger = replace(runs[0], path=tmp_path)
    with pytest.raises(ValueError, match="was not run with tracker=wandb"):
        wandb_report.identities([runs[0], stranger])
    Identity(id="x", project="another", entity="us", mode="online", name=None, group=None).write(tmp_path)
    with pytest.raises(ValueError, match="several W&B projects"):
        wandb_report.identities([runs[0], stranger])
