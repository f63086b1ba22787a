"""Line charts and histograms as places on a canvas; the template draws them as SVG, the style sheet colours them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from matplotlib.ticker import MaxNLocator

from experiments.reporting.data import Round, Row, Run, band
from rzero.types import LabelledQuestion

WIDTH, HEIGHT = 480, 230
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 12, 28
"""Margins of the canvas, in its own units."""

FEW_VOTES = 8
"""With fewer votes than this the bars of a histogram grow no wider."""

MANY = 60
"""Lines with more points than this are drawn without dots."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """A named line; None is a gap."""

    name: str
    values: Sequence[tuple[float, float | None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """`path` is an SVG path; `dots` are x, y and what a reader who points there is told."""

    name: str
    path: str
    dots: Sequence[tuple[float, float, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """Everything in canvas units. x_ticks, y_ticks: place and label. shades: left edge and width of shaded stripes."""

    title: str
    x_label: str
    lines: Sequence[Line] = ()
    bars: Sequence[tuple[float, float, float, float, str, str]] = ()
    """x, y, width, height, kind (kept or dropped), what a reader who points there is told."""
    x_ticks: Sequence[tuple[float, str]] = ()
    y_ticks: Sequence[tuple[float, str]] = ()
    shades: Sequence[tuple[float, float]] = ()
    legend: Sequence[str] = ()


def lines(
    title: str,
    series: Sequence[Series],
    *,
    x_label: str,
    x_names: Sequence[tuple[float, str]] | None = None,
    shades: Sequence[tuple[float, float]] = (),
) -> Chart | None:
    """A line chart; None when no series has a number. x_names: ticks of x (numbers of its own when not given)."""
    numbers = [value for line in series for _, value in line.values if value is not None]
    if not numbers:
        return None
    everywhere = [x for line in series for x, _ in line.values]
    low_x, high_x = min(everywhere), max(everywhere)
    pad = 0.5 if low_x == high_x else 0.03 * (high_x - low_x)
    xs = _Scale(low=low_x - pad, high=high_x + pad, start=LEFT, end=WIDTH - RIGHT)
    ys, y_ticks = _vertical(min(numbers), max(numbers))
    if x_names is None:
        places = MaxNLocator(nbins=6, integer=True, min_n_ticks=1).tick_values(low_x, high_x)
        x_names = [(x, f"{x:g}") for x in places if low_x <= x <= high_x]
    return Chart(
        title=title,
        x_label=x_label,
        lines=[_line(line, xs, ys) for line in series],
        x_ticks=[(xs(x), name) for x, name in x_names],
        y_ticks=y_ticks,
        shades=[(xs(left), xs(right) - xs(left)) for left, right in shades],
        legend=[line.name for line in series] if len(series) > 1 else (),
    )


def agreement(questions: Sequence[LabelledQuestion], *, title: str, run: Run) -> Chart | None:
    """How many questions got which agreement, kept ones below, the band shaded; None when there was no vote."""
    voted = [question for question in questions if question.vote]
    if not voted:
        return None
    counts = {
        kept: Counter(round(q.vote.agreement, 4) for q in voted if q.vote and q.kept == kept) for kept in (True, False)
    }
    places = sorted({*counts[True], *counts[False]})
    xs = _Scale(low=-0.06, high=1.06, start=LEFT, end=WIDTH - RIGHT)
    ys, y_ticks = _vertical(0, max(counts[True][x] + counts[False][x] for x in places), whole=True)
    votes = max(q.vote.divisor for q in voted if q.vote)
    width = 0.8 * (xs(1) - xs(0)) / max(votes, FEW_VOTES)
    bars = []
    for x in places:
        height = 0
        for kept, kind in ((True, "kept"), (False, "dropped")):
            count = counts[kept][x]
            top, bottom = ys(height + count), ys(height)
            told = f"{count} {kind} at {100 * x:.0f} %"
            if count:
                bars.append((_round(xs(x) - width / 2), top, _round(width), _round(bottom - top), kind, told))
            height += count
    limits = band(run.config)
    return Chart(
        title=title,
        x_label="share of the votes for the top answer (%)",
        bars=bars,
        x_ticks=[(xs(x / 4), f"{25 * x}") for x in range(5)],
        y_ticks=y_ticks,
        shades=[(xs(max(limits[0], 0)), xs(min(limits[1], 1)) - xs(max(limits[0], 0)))] if limits else (),
    )


# -------------------------------------------------------------------------------------------------------- of a run


def overall(runs: Sequence[tuple[str, Run]]) -> Chart | None:
    """`overall` by round, one line a run."""
    series = [Series(name=name, values=_by_round(run, "evaluation/overall")) for name, run in runs]
    return lines("Overall by round (%)", series, x_label="round", x_names=_rounds(run for _, run in runs))


def by_round(run: Run, *, title: str, metrics: Sequence[tuple[str, str]], factor: float = 1.0) -> Chart | None:
    """`metrics` (name in the legend, metric) over rounds; those that the run never logged are left out."""
    series = [
        Series(name=name, values=_by_round(run, metric, factor)) for name, metric in metrics if metric in run.logged
    ]
    return lines(title, series, x_label="round", x_names=_rounds([run]))


def by_step(run: Run, *, role: str, metric: str, title: str) -> Chart | None:
    """A metric over all training steps of a role, every other round shaded."""
    values: list[tuple[float, float | None]] = []
    shades = []
    for turn in run.trained:
        rows: Sequence[Row] = turn.challenger if role == "challenger" else turn.solver
        start = len(values)
        values += [(start + step + 1, row.get(f"{role}/{metric}")) for step, row in enumerate(rows)]
        if rows and turn.iteration % 2:
            shades.append((start + 0.5, len(values) + 0.5))
    return lines(title, [Series(name=role, values=values)], x_label=f"{role.title()} training step", shades=shades)


def _by_round(run: Run, metric: str, factor: float = 1.0) -> list[tuple[float, float | None]]:
    return [(turn.iteration, _scaled(_logged(turn, metric), factor)) for turn in run.rounds if _has(turn, metric)]


def _has(turn: Round, metric: str) -> bool:
    return any(metric in row for row in turn.logged)


def _logged(turn: Round, metric: str) -> float | None:
    return next((row[metric] for row in reversed(turn.logged) if metric in row), None)


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else factor * value


def _rounds(runs: Iterable[Run]) -> list[tuple[float, str]]:
    last = max(len(run.rounds) for run in runs)
    every = -(-last // 8)
    return [(number, str(number) if number else "base") for number in range(0, last, every)]


# ------------------------------------------------------------------------------------------------------------ canvas


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scale:
    """Numbers from `low` to `high` on the canvas from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return _round(self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start))


def _vertical(low: float, high: float, *, whole: bool = False) -> tuple[_Scale, list[tuple[float, str]]]:
    """A scale with round numbers at both ends, and its ticks."""
    if low == high:
        low, high = low - 0.5 * (abs(low) or 1), high + 0.5 * (abs(high) or 1)
    ticks = [float(value) for value in MaxNLocator(nbins=4, integer=whole).tick_values(low, high)]
    scale = _Scale(low=ticks[0], high=ticks[-1], start=HEIGHT - BOTTOM, end=TOP)
    digits = max(len(f"{value:g}".partition(".")[2]) for value in ticks)
    return scale, [(scale(value), f"{value:.{digits}f}" if digits else f"{value:g}") for value in ticks]


def _line(series: Series, xs: _Scale, ys: _Scale) -> Line:
    dots, path, drawing = [], "", False
    for x, value in series.values:
        if value is None or not math.isfinite(value):
            drawing = False
            continue
        place = xs(x), ys(value)
        path += f"{'L' if drawing else 'M'}{place[0]} {place[1]}"
        dots.append((*place, f"{series.name}, {x:g}: {value:.4g}"))
        drawing = True
    return Line(name=series.name, path=path, dots=dots if len(dots) <= MANY else ())


def _round(value: float) -> float:
    return round(value, 1)
