"""The report at Weights & Biases, built as code: the same sections, with live panels in the place of the pictures."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from experiments.reporting import content, markdown, panels
from experiments.reporting.content import Section
from experiments.reporting.data import Run
from experiments.reporting.panels import Bars, Block, Curves, LoggedTable, Panel
from rzero.escaping import terminal_text
from rzero.tracking.weights_and_biases import KEY, Identity

if TYPE_CHECKING:
    import wandb_workspaces.reports.v2 as wr

TITLE_CHARS = 128
"""W&B's limit."""


class NotSaved(RuntimeError):
    """The report could not be saved at W&B, for the reason in its text."""


def save(runs: Sequence[Run]) -> str:
    """Save the report and return its address.

    Raises NotSaved without a key, without a network and when W&B refuses; ValueError when a run is not at W&B.
    """
    if not os.environ.get(KEY):
        raise NotSaved(f"there is no {KEY} in the environment")
    known = identities(runs)
    import wandb.errors

    try:
        report = build(runs, known=known)
        report.save()
        return str(report.url)
    except (wandb.errors.Error, OSError) as error:
        raise NotSaved(f"W&B did not take it ({terminal_text(str(error))})") from error


def identities(runs: Sequence[Run]) -> list[Identity]:
    """Which W&B run each run is. Raises ValueError when one of them is none, or they lie in several projects."""
    found = [Identity.read(run.path) for run in runs]
    known = [identity for identity in found if identity]
    if missing := [str(run.path) for run, identity in zip(runs, found, strict=True) if identity is None]:
        raise ValueError(f"{', '.join(missing)} was not run with tracker=wandb, so W&B has no metrics to draw")
    if len({(identity.entity, identity.project) for identity in known}) > 1:
        raise ValueError("the runs lie in several W&B projects; a report belongs to one: give runs of one project")
    return known


def build(runs: Sequence[Run], *, known: Sequence[Identity]) -> wr.Report:
    """Return the report as W&B's own object, not saved. Asks W&B for the account of runs that began offline."""
    import wandb
    import wandb_workspaces.reports.v2 as wr

    report = wr.Report(
        project=known[0].project,
        entity=known[0].entity or wandb.Api().default_entity or "",
        title=terminal_text(content.title(runs))[:TITLE_CHARS],
    )
    report.blocks = [wr.TableOfContents()]
    for block in panels.blocks(runs):
        report.blocks += _text(block.section)
        if block.panels:
            runset = _runset(block, runs=runs, known=known, entity=report.entity)
            grid = wr.PanelGrid(runsets=[runset], panels=[_panel(panel) for panel in block.panels], hide_run_sets=True)
            report.blocks.append(grid)
    return report


def _text(section: Section) -> list[wr.H1 | wr.H2 | wr.MarkdownBlock]:
    """W&B shows Markdown, so this is the text of report.md."""
    import wandb_workspaces.reports.v2 as wr

    heading = (wr.H1 if section.depth == 1 else wr.H2)(text=terminal_text(section.title))
    body = markdown.body(section)
    return [heading, wr.MarkdownBlock(text=body)] if body else [heading]


def _runset(block: Block, *, runs: Sequence[Run], known: Sequence[Identity], entity: str) -> wr.Runset:
    import wandb_workspaces.reports.v2 as wr

    ids = ", ".join(repr(known[number].id) for number in block.runs)
    names = ", ".join(f"{runs[number].name}, seed {runs[number].seed}" for number in block.runs)
    return wr.Runset(
        entity=entity,
        project=known[0].project,
        name=terminal_text(names)[:TITLE_CHARS],
        filters=f"Metric('ID') in [{ids}]",
    )


def _panel(panel: Panel) -> wr.LinePlot | wr.BarPlot | wr.WeavePanelSummaryTable:
    import wandb_workspaces.reports.v2 as wr

    match panel:
        case Curves():
            return wr.LinePlot(title=panel.title, x=panel.x, y=list(panel.metrics))
        case Bars():
            bars = wr.BarPlot(title=panel.title, metrics=list(panel.metrics))
            if panel.by is not None:
                bars.groupby, bars.groupby_aggfunc, bars.groupby_rangefunc = wr.Config(panel.by), "mean", "stddev"
            return bars
        case LoggedTable():
            return wr.WeavePanelSummaryTable(table_name=panel.key, layout=wr.Layout(w=24, h=16))
