"""The words and tables of a report: runs in, sections of plain records out. Both renderers show the same sections."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from evaluation.metrics import Gain, gain, interval, spread
from experiments.reporting import posed
from experiments.reporting.data import Iteration, Run, iteration_name, wall_seconds

NOTHING = "–"

SectionId = Literal["run", "result", "iterations", "training", "examples", "time", "comparison", "heading", "jobs"]
"""Names by which pictures, panels and pages know a section, whatever its title says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """Text in a table. best: the highest of its row. model: a model or a user wrote it. span: columns it covers."""

    text: str
    best: bool = False
    model: bool = False
    span: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """`heads` are groups of columns with the names of their columns; the first column holds the rows' names.

    `numeric` columns are set flush right; a table of texts has none.
    """

    heads: Sequence[tuple[str, Sequence[str]]]
    rows: Sequence[Sequence[Cell]]
    numeric: bool = True
    caption: str = ""

    @property
    def grouped(self) -> bool:
        return any(name for name, _ in self.heads)

    @property
    def named(self) -> bool:
        return any(column for _, columns in self.heads for column in columns)


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A PNG beside the report, with a text for those who cannot see it."""

    file: str
    alt: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A heading of depth 1 (a run) or 2 with paragraphs, tables and pictures, in this order."""

    id: SectionId
    title: str
    depth: int = 2
    paragraphs: Sequence[str] = ()
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()


# -------------------------------------------------------------------------------------------------------------- header


def title(runs: Sequence[Run]) -> str:
    if len(runs) == 1:
        return f"R-Zero: {runs[0].name}, seed {runs[0].seed}"
    return f"R-Zero: {len(runs)} runs"


def header(run: Run) -> Section:
    """Say what ran, where, for how long, how it ended, and the result in one sentence."""
    attempts = run.manifest.get("attempts", [])
    commits = dict.fromkeys(_short(attempt.get("commit", "")) for attempt in attempts)
    started = attempts[0]["started_unix_s"] if attempts else None
    memory = [attempt["peak_rss_gib"] for attempt in attempts if "peak_rss_gib" in attempt]
    of_all = [attempt["peak_rss_all_gib"] for attempt in attempts if "peak_rss_all_gib" in attempt]
    of_all += [stage["peak_rss_gib"] for stage in run.stages.values() if "peak_rss_gib" in stage]
    seconds, complete = wall_seconds(run)
    versions = run.manifest.get("versions", {})
    facts = {
        "iterations": f"{run.done} of {run.planned}" + ("" if run.done >= run.planned else " (not finished)"),
        "started": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(started)) if started else NOTHING,
        "wall time": duration(seconds) + ("" if complete else " in completed stages"),
        "peak memory": f"{max(memory):.2f} GiB" if memory else NOTHING,
        **({"peak memory of all processes, added up": f"{max(of_all):.2f} GiB"} if of_all else {}),
        "commit": ", ".join(filter(None, commits)) or NOTHING,
        "machine": f"{run.manifest.get('machine', NOTHING)}, {run.manifest.get('threads', '?')} thread(s)",
        "versions": ", ".join(f"{k} {v}" for k, v in {"python": run.manifest.get("python", "?"), **versions}.items()),
        "directory": str(run.path),
    }
    rows = [(Cell(text=key), Cell(text=value)) for key, value in facts.items()]
    table = Table(heads=(("", ("", "")),), rows=rows, numeric=False)
    return Section(id="run", title="The run", paragraphs=_outcome(run), tables=(table,))


def _outcome(run: Run) -> list[str]:
    sentences = [
        f"{iteration.name.capitalize()} kept none of its {len(iteration.questions)} questions, so there was nothing "
        "for the Solver to learn from and the run stopped there. The drop reasons are listed below."
        for iteration in run.trained
        if iteration.kept_nothing
    ]
    if run.base is None:
        return [*sentences, "The base model has not been evaluated yet, so there is no result to compare with."]
    if run.done == 0:
        return [*sentences, f"Only the base model has been evaluated so far: overall {run.base.overall:.2f} %."]
    number, last = run.scores[-1]
    change = gain(run.base, last)
    return [
        *sentences,
        f"Overall after iteration {number}: {last.overall:.2f} %, {change.points:+.2f} points against the base model's "
        f"{run.base.overall:.2f} % (95 % interval {change.low:+.2f} to {change.high:+.2f}). Right answers among "
        f"well-formed ones contribute {change.among_well_formed:+.2f}, format {change.format:+.2f}.",
    ]


# -------------------------------------------------------------------------------------------------------------- scores


def results(run: Run) -> Section:
    """Every benchmark and average under the two protocols of the paper, then `overall` with intervals and gains."""
    if not run.scores:
        return Section(id="result", title="Result", paragraphs=("No model of this run has been evaluated yet.",))
    k = run.scores[-1][1].k
    truncated = any(iteration.truncated for iteration in run.iterations)  # older runs did not write it down
    main = _score_table(
        run,
        columns=("greedy", "mean@k"),
        truncated=truncated,
        caption=f"Right answers in percent, greedy and mean over k = {k} samples; the best of each row and protocol "
        "is bold. Overall AVG is the mean of MATH AVG and each general benchmark; overall is the mean of its two "
        "columns."
        + (" Truncated: responses that ran into the token limit, in percent, greedy / sampled." if truncated else ""),
    )
    other = _score_table(
        run,
        columns=("maj@k", "pass@k"),
        caption=f"Majority of {k} samples, and at least one of {k} right: maj@k rising while pass@k does not is "
        "sharpening, pass@k rising is new ability.",
    )
    about = posed.said(run.config)
    return Section(
        id="result", title="Result", paragraphs=(about,) if about else (), tables=(main, _gain_table(run), other)
    )


def _score_table(run: Run, *, columns: Sequence[str], caption: str, truncated: bool = False) -> Table:
    tables = [scores.table() for _, scores in run.scores]
    shown = (*columns, "truncated") if truncated else columns
    rows = []
    for name in tables[0]:
        values = [[table[name][column] for column in columns] for table in tables]
        by_column = [_marked(column, form=".1f") for column in zip(*values, strict=True)]
        if truncated:
            shares = [run.iterations[number].truncated.get(name, {}) for number, _ in run.scores]
            by_column.append([Cell(text=_percentages(share)) for share in shares])
        rows.append([Cell(text=name, model=True), *(cell for cells in zip(*by_column, strict=True) for cell in cells)])
    if "greedy" in columns:
        overall = [scores.overall for _, scores in run.scores]
        rows.append([Cell(text="overall"), *_marked(overall, span=len(shown))])
    return Table(
        heads=(("", ("",)), *((iteration_name(number), shown) for number, _ in run.scores)),
        rows=rows,
        caption=caption,
    )


def _percentages(shares: Mapping[str, float]) -> str:
    """Shares of the two decodings, greedy / sampled, in percent."""
    return " / ".join(f"{100 * share:.1f}" for share in shares.values()) or NOTHING


def _marked(values: Sequence[float], *, form: str = ".2f", span: int = 1) -> list[Cell]:
    """One cell an iteration; the best is marked unless all are the same."""
    best = max(values) if len(set(values)) > 1 else None
    return [Cell(text=f"{value:{form}}", best=value == best, span=span) for value in values]


def _gain_table(run: Run) -> Table:
    rows = []
    for number, scores in run.scores:
        low, high = interval(scores)
        change = gain(run.base, scores) if run.base and number else None
        own = [iteration_name(number), f"{scores.overall:.2f}", f"{low:.1f} to {high:.1f}"]
        rows.append([Cell(text=text) for text in own] + _gain_cells(change))
    return Table(
        heads=(
            ("", ("",)),
            ("overall (%)", ("mean", "95 % interval")),
            ("gain over the base (points)", ("all", "95 % interval", "well-formed right", "format")),
        ),
        rows=rows,
        caption="Intervals are bootstrapped over items, those of the gain over pairs of the same item. The gain is the "
        "exact sum of its two last columns: more right answers among the well-formed ones, and more well-formed ones.",
    )


def _gain_cells(change: Gain | None) -> list[Cell]:
    if change is None:
        return [Cell(text=NOTHING)] * 4
    return [
        Cell(text=f"{change.points:+.2f}"),
        Cell(text=f"{change.low:+.1f} to {change.high:+.1f}"),
        Cell(text=f"{change.among_well_formed:+.2f}"),
        Cell(text=f"{change.format:+.2f}"),
    ]


# -------------------------------------------------------------------------------------------------------- several runs


def comparison(runs: Sequence[Run]) -> Section:
    """One row a run, and under runs of the same recipe their mean and spread: all iterations, then the last gain."""
    numbers = range(max(len(run.iterations) for run in runs))
    by_iteration = Table(
        heads=(("", ("",)), ("overall (%)", list(map(iteration_name, numbers)))),
        rows=_grouped(runs, lambda run: [_overall(run, number) for number in numbers], form=".2f"),
        caption="Overall is the mean of greedy and mean@k Overall AVG. Spread is the standard deviation over runs that "
        "differ in nothing but their seed.",
    )
    gains = Table(
        heads=(
            ("", ("",)),
            ("gain of the last iteration over the base (points)", ("all", "well-formed right", "format")),
        ),
        rows=_grouped(runs, _gain_values, form="+.2f"),
        caption="The gain is the sum of the other two columns; its interval stands with each run below.",
    )
    return Section(id="comparison", title="Comparison", tables=(by_iteration, gains))


def last_gain(run: Run) -> Gain | None:
    """From the base model to the last evaluated iteration; None when either is missing."""
    return None if run.base is None or run.done == 0 else gain(run.base, run.scores[-1][1])


def _gain_values(run: Run) -> list[float | None]:
    change = last_gain(run)
    return [None] * 3 if change is None else [change.points, change.among_well_formed, change.format]


def _overall(run: Run, number: int) -> float | None:
    scores = dict(run.scores).get(number)
    return scores.overall if scores else None


def _grouped(runs: Sequence[Run], values: Callable[[Run], list[float | None]], *, form: str) -> list[list[Cell]]:
    """Rows of the runs, recipe by recipe; a mean is given where every run of the recipe has the value."""
    rows: list[list[Cell]] = []
    for recipe in dict.fromkeys(run.recipe for run in runs):
        group = [run for run in runs if run.recipe == recipe]
        measured = [values(run) for run in group]
        for run, line in zip(group, measured, strict=True):
            cells = [Cell(text=NOTHING if value is None else f"{value:{form}}") for value in line]
            rows.append([Cell(text=f"{run.name}, seed {run.seed}", model=True), *cells])
        if len(group) > 1:
            columns = zip(*measured, strict=True)
            rows.append(
                [Cell(text=f"mean of {len(group)} ± spread"), *(_mean_cell(column, form) for column in columns)]
            )
    return rows


def _mean_cell(values: Sequence[float | None], form: str) -> Cell:
    there = [value for value in values if value is not None]
    if len(there) < len(values):
        return Cell(text=NOTHING)
    return Cell(text=f"{sum(there) / len(there):{form}} ± {spread(there):.2f}", best=True)


# -------------------------------------------------------------------------------------------------------------- helpers


def duration(seconds: float) -> str:
    """`42 s`, `3 min 5 s`, `2 h 10 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _short(commit: str) -> str:
    head, plus, changes = commit.partition("+")
    return head[:12] + plus + changes


def column_names(iterations: Sequence[Iteration]) -> tuple[str, ...]:
    return tuple(iteration.name for iteration in iterations)
