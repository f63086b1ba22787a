"""How every picture is drawn: one style, lines over iterations, bars, PNGs.

Colours are Okabe and Ito's, told apart by colour-blind readers, and every line has a marker. Figures are drawn on
matplotlib's Agg canvas; text in them is never parsed as a formula.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from rzero.durable import write_atomically
from rzero.escaping import terminal_text

BLUE, ORANGE, GREEN, RED, PURPLE, SKY, GREY = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
    "#777777",
)
COLOURS = (BLUE, ORANGE, GREEN, RED, PURPLE, SKY, "#000000", GREY)
MARKERS = "osD^vP*X"
LABEL_CHARS = 48
"""Longest name beside a bar."""

_STYLED = threading.Lock()  # matplotlib's style is one for the process, and the pages of `browse` are drawn in threads


def png(draw: Callable[[], Figure]) -> bytes:
    """Return what `draw` draws as a PNG: the same bytes for the same figure."""
    with _STYLED, _style():
        figure = draw()
        FigureCanvasAgg(figure)
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=110, metadata={"Software": None})
        return file.getvalue()


def _style() -> AbstractContextManager[None]:
    return matplotlib.rc_context(
        {
            "text.parse_math": False,
            "font.size": 10,
            "axes.titlesize": 11,
            "axes.titleweight": "bold",
            "axes.titlelocation": "left",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "grid.color": "#e4e4e4",
            "legend.frameon": False,
            "legend.fontsize": 9,
        }
    )


def save(draw: Callable[[], Figure], path: Path) -> None:
    """Write what `draw` draws as a PNG to `path`."""
    write_atomically(path, png(draw))


# ----------------------------------------------------------------------------------------------- lines over iterations


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A value after an iteration (0: the base model), with the ends of its interval where it has one; nan is a gap."""

    iteration: int
    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Points under a label. Colour and marker are the next of the palette where none is given."""

    label: str
    points: Sequence[Point]
    colour: str | None = None
    marker: str | None = None
    dashed: bool = False


def points(values: Iterable[float], *, start: int = 0) -> list[Point]:
    """Return the values of consecutive iterations from `start` as points without intervals."""
    return [Point(iteration=iteration, value=value) for iteration, value in enumerate(values, start)]


def by_iteration(lines: Sequence[Line], *, ylabel: str, title: str = "", legend: str = "") -> Figure:
    """Draw lines over iterations, intervals shaded. legend: the title of the names at the right."""
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    lines_by_iteration(figure.subplots(), lines, ylabel=ylabel, title=title, legend=legend)
    return figure


def lines_by_iteration(axes: Axes, lines: Sequence[Line], *, ylabel: str, title: str = "", legend: str = "") -> None:
    """Draw the same on a part of a figure."""
    for place, line in enumerate(lines):
        x, values = [point.iteration for point in line.points], [point.value for point in line.points]
        colour = line.colour or COLOURS[place % len(COLOURS)]
        axes.plot(
            x,
            values,
            color=colour,
            marker=line.marker or MARKERS[place % len(MARKERS)],
            ms=5,
            lw=1.3 if line.dashed else 1.8,
            ls="--" if line.dashed else "-",
            label=terminal_text(line.label),
        )
        lows = [point.value if point.low is None else point.low for point in line.points]
        highs = [point.value if point.high is None else point.high for point in line.points]
        if (lows, highs) != (values, values):
            axes.fill_between(x, lows, highs, color=colour, alpha=0.15, lw=0)
    axes.set_ylabel(ylabel)
    axes.set_title(title)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), title=legend or None)
    name_iterations(axes, sorted({point.iteration for line in lines for point in line.points}))


def name_iterations(axes: Axes, numbers: Sequence[int]) -> None:
    """Put iterations on the horizontal axis; 0 is the base model."""
    axes.set_xticks(numbers, [str(number) if number else "base" for number in numbers])
    axes.set_xlabel("iteration")
    if numbers:
        axes.set_xlim(numbers[0] - 0.3, numbers[-1] + 0.3)
    axes.grid(axis="x", visible=False)


# ---------------------------------------------------------------------------------------------------------------- bars


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A bar from 0 to `value`, with the ends of its interval and the single measurements where there are any."""

    value: float
    label: str = ""
    low: float | None = None
    high: float | None = None
    dots: Sequence[float] = ()


def bars(groups: Mapping[str, Sequence[Bar]], *, xlabel: str, title: str = "") -> Figure:
    """Draw a group of bars for each name, from the top down.

    Groups of several bars share their colours, which the legend names by the bars' labels; single bars have their own.
    """
    several = max(len(group) for group in groups.values())
    figure = Figure(figsize=(9, 1.2 + 0.5 * len(groups) * max(1.0, 0.6 * several)), layout="constrained")
    axes = figure.subplots()
    height = (0.6 if several == 1 else 0.8) / several
    for row, group in enumerate(groups.values()):
        for place, bar in enumerate(group):
            y = row + (place - (len(group) - 1) / 2) * height
            number = row if several == 1 else place
            named = bar.label if row == 0 and several > 1 else None
            _bar(axes, bar, y=y, height=height, colour=COLOURS[number % len(COLOURS)], label=named)
    axes.set_yticks(range(len(groups)), [_beside_a_bar(name) for name in groups])
    axes.invert_yaxis()
    axes.set_title(title)
    axes.set_xlabel(xlabel)
    axes.grid(axis="y", visible=False)
    if several > 1:
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _bar(axes: Axes, bar: Bar, *, y: float, height: float, colour: str, label: str | None) -> None:
    axes.barh(
        y, bar.value, height=height, color=colour, alpha=0.75, label=None if label is None else terminal_text(label)
    )
    if bar.low is not None and bar.high is not None:
        error = [[bar.value - bar.low], [bar.high - bar.value]]
        axes.errorbar([bar.value], [y], xerr=error, color="#1d2430", capsize=4, lw=1.2)
    axes.plot(list(bar.dots), [y] * len(bar.dots), "o", color="#1d2430", ms=4)


def _beside_a_bar(name: str) -> str:
    shown = terminal_text(name)
    return shown if len(shown) <= LABEL_CHARS else shown[: LABEL_CHARS - 1] + "…"
