"""The pictures of a report as panels that W&B draws from the metrics of the runs: plain records, no W&B needed.

A panel names metrics of metrics.jsonl. One that no run has logged is left out, so that no panel stays empty.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

from experiments.reporting import outline
from experiments.reporting.content import Section, SectionId
from experiments.reporting.data import Run
from rzero.alarm import LABEL_ACCURACY

STEP = "Step"
"""W&B's own name for the step that every row of metrics carries."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curves:
    """Lines of `metrics` over `x`, one line a run and metric."""

    title: str
    metrics: tuple[str, ...]
    x: str = "iteration"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bars:
    """The last value of `metrics`, a bar a run; with the configuration key `by` a bar a value of it, the runs' mean."""

    title: str
    metrics: tuple[str, ...]
    by: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedTable:
    """A table that the tracker logged under `key`."""

    key: str


Panel = Curves | Bars | LoggedTable


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A section with the panels under it. `runs` says whose metrics they draw, as numbers in the list of runs."""

    section: Section
    panels: tuple[Panel, ...] = ()
    runs: tuple[int, ...] = ()


def blocks(runs: Sequence[Run], *, sections: Callable[[Run], list[Section]] = outline.of_run) -> list[Block]:
    """The whole report: a comparison when there are several runs, then every run in full."""
    if len(runs) == 1:
        return [_block(section, runs, shown=(0,)) for section in sections(runs[0])]
    result = [_block(outline.compared(runs), runs, shown=tuple(range(len(runs))))]
    for number, run in enumerate(runs):
        result.append(Block(section=outline.run_heading(run, number=number + 1)))
        result += [_block(section, runs, shown=(number,)) for section in sections(run)]
    return result


def _block(section: Section, runs: Sequence[Run], *, shown: tuple[int, ...]) -> Block:
    mine = [runs[number] for number in shown]
    logged = {name for run in mine for name in run.logged}
    panels = (_only(panel, logged) for panel in wanted(section.id, runs=mine))
    return Block(section=section, panels=tuple(filter(None, panels)), runs=shown)


def wanted(section: SectionId, *, runs: Sequence[Run]) -> list[Panel]:
    """Return the panels under a section, if the runs have logged everything."""
    return _PANELS[section](runs) if section in _PANELS else []


def _only(panel: Panel, logged: Collection[str]) -> Panel | None:
    """The panel with the metrics that were logged; None when there is none. Tables come with the questions' metrics."""
    if isinstance(panel, LoggedTable):
        return panel if "curriculum/candidates" in logged else None
    metrics = tuple(name for name in panel.metrics if name in logged)
    return replace(panel, metrics=metrics) if metrics else None


# ----------------------------------------------------------------------------------------------------- what goes where


def _result(runs: Sequence[Run]) -> list[Panel]:
    averages = tuple(f"evaluation/Overall AVG/{column}" for column in ("greedy", "mean@k", "maj@k", "pass@k"))
    return [
        Curves(title="Overall by iteration (%)", metrics=("evaluation/overall",)),
        Curves(title="Overall AVG by iteration (%)", metrics=averages),
        Curves(title="Benchmarks by iteration, mean@k (%)", metrics=_benchmarks(runs)),
    ]


def _benchmarks(runs: Sequence[Run]) -> tuple[str, ...]:
    """The mean@k of every benchmark, without the averages over them."""
    scores = [scores for run in runs for _, scores in run.scores]
    names = dict.fromkeys(benchmark.name for score in scores for benchmark in score.benchmarks)
    return tuple(f"evaluation/{name}/mean@k" for name in names)


def _iterations(runs: Sequence[Run]) -> list[Panel]:
    estimated = (LABEL_ACCURACY,) if any(LABEL_ACCURACY in run.logged for run in runs) else ()
    labels = ("audit/well_posed", "audit/label_accuracy", "audit/label_accuracy_kept", *estimated)
    return [
        Curves(title="Question difficulty (solution steps)", metrics=("audit/level", "audit/level_kept")),
        Curves(title="Labels (share of questions)", metrics=labels),
        Curves(title="Questions by iteration", metrics=("curriculum/candidates", "curriculum/kept")),
        Curves(title="Mean agreement by iteration", metrics=("curriculum/agreement",)),
    ]


def _training(_: Sequence[Run]) -> list[Panel]:
    measures = {
        "Reward": "reward",
        "KL (nats per token)": "kl",
        "Log-probs, engine from trainer (nats)": "sampling/sampling_logp_difference/mean",
        "Response length (tokens)": "completions/mean_length",
        "Groups without a signal (share)": "frac_reward_zero_std",
    }
    return [
        Curves(title=f"{role.title()}: {title}", metrics=(f"{role}/{metric}",), x=STEP)
        for title, metric in measures.items()
        for role in ("challenger", "solver")
    ]


def _examples(_: Sequence[Run]) -> list[Panel]:
    return [LoggedTable(key="questions")]


def _comparison(runs: Sequence[Run]) -> list[Panel]:
    varied = outline.differences(runs)
    several_names = len({run.name for run in runs}) > 1
    by = "name" if varied and several_names else varied[0] if len(varied) == 1 else None
    return [
        Curves(title="Overall by iteration (%)", metrics=("evaluation/overall",)),
        Bars(title="Overall of the last iteration (%)", metrics=("evaluation/overall",), by=by),
    ]


_PANELS: dict[SectionId, Callable[[Sequence[Run]], list[Panel]]] = {
    "result": _result,
    "iterations": _iterations,
    "training": _training,
    "examples": _examples,
    "comparison": _comparison,
}
