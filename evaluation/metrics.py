"""Scores of one model under one protocol: pure functions from per-item outcomes to averages and intervals.

Names follow the paper (docs/method.md#evaluation): MATH AVG is the mean over the mathematics benchmarks; Overall AVG is
the mean of MATH AVG and each general benchmark. `overall` is the mean of the Overall AVG over the columns that count:
greedy decoding and mean@k for the micro world, mean@k alone (k = 1, greedy, where nothing is sampled) for the paper.
All scores are percentages in [0, 100].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rzero.types import Json

PROTOCOLS = ("greedy", "mean@k", "maj@k", "pass@k")
AVERAGES = ("MATH AVG", "GENERAL AVG", "Overall AVG")
HEADLINE = ("greedy", "mean@k")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Verdicts on one item. Shares are over the k samples; `*_boxed` says a (closed, non-empty) box was there."""

    id: str
    level: int
    greedy: bool
    greedy_boxed: bool
    sampled: float
    sampled_boxed: float
    majority: bool
    any_right: bool


COLUMNS = tuple(Outcome.__dataclass_fields__)


def _plain(value: object) -> object:
    return int(value) if isinstance(value, bool) else value


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkScore:
    """All outcomes of one benchmark."""

    name: str
    group: str
    outcomes: tuple[Outcome, ...]

    def matrix(self) -> np.ndarray:
        """Per item the four protocols' scores and the two well-formed shares, in percent: [items, 6]."""
        return 100.0 * np.array(
            [(o.greedy, o.sampled, o.majority, o.any_right, o.greedy_boxed, o.sampled_boxed) for o in self.outcomes],
            dtype=float,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Everything measured about one model in one evaluation.

    `k` is the (largest) number of samples behind mean@k; `headline` names the columns whose mean is `overall`.
    """

    k: int
    benchmarks: tuple[BenchmarkScore, ...]
    headline: tuple[str, ...] = HEADLINE

    def __post_init__(self) -> None:
        if not self.headline or not set(self.headline) <= set(PROTOCOLS):
            raise ValueError(f"headline must name some of {', '.join(PROTOCOLS)}, got {self.headline!r}")

    def table(self) -> dict[str, dict[str, float]]:
        """Rows: each benchmark and the three averages; columns: the four protocols and `well-formed` shares."""
        columns = (*PROTOCOLS, "greedy well-formed", "sampled well-formed")
        means = {score.name: score.matrix().mean(axis=0) for score in self.benchmarks}
        rows = {**means, **averages(means, {score.name: score.group for score in self.benchmarks})}
        return {name: dict(zip(columns, map(float, values), strict=True)) for name, values in rows.items()}

    @property
    def overall(self) -> float:
        """Mean of the headline columns of Overall AVG, in percent."""
        row = self.table()["Overall AVG"]
        return sum(row[column] for column in self.headline) / len(self.headline)

    @property
    def headline_columns(self) -> list[int]:
        """Where the headline columns are in a benchmark's matrix."""
        return [PROTOCOLS.index(column) for column in self.headline]

    def metrics(self) -> dict[str, float]:
        """Flat metrics for a tracker."""
        flat = {
            f"evaluation/{name}/{column}": value for name, row in self.table().items() for column, value in row.items()
        }
        return {**flat, "evaluation/overall": self.overall}

    def to_json(self) -> Json:
        """Plain data; outcomes are stored by column, which is several times smaller than by row."""
        benchmarks = [
            {"name": b.name, "group": b.group, **{f: [_plain(getattr(o, f)) for o in b.outcomes] for f in COLUMNS}}
            for b in self.benchmarks
        ]
        data = {"overall": self.overall, "k": self.k, "table": self.table(), "benchmarks": benchmarks}
        return data if self.headline == HEADLINE else {**data, "headline": list(self.headline)}

    @classmethod
    def from_json(cls, data: Json) -> Scores:
        return cls(
            k=data["k"],
            headline=tuple(data.get("headline", HEADLINE)),
            benchmarks=tuple(
                BenchmarkScore(
                    name=b["name"],
                    group=b["group"],
                    outcomes=tuple(
                        Outcome(**dict(zip(COLUMNS, row, strict=True)))
                        for row in zip(*(b[column] for column in COLUMNS), strict=True)
                    ),
                )
                for b in data["benchmarks"]
            ),
        )


def averages(means: Mapping[str, np.ndarray], groups: Mapping[str, str]) -> dict[str, np.ndarray]:
    """MATH AVG, GENERAL AVG and Overall AVG of per-benchmark means, as far as their groups exist."""
    math = [value for name, value in means.items() if groups[name] == "math"]
    general = [value for name, value in means.items() if groups[name] == "general"]
    rows: dict[str, np.ndarray] = {}
    if math:
        rows["MATH AVG"] = np.mean(math, axis=0)
    if general:
        rows["GENERAL AVG"] = np.mean(general, axis=0)
    rows["Overall AVG"] = np.mean([*([rows["MATH AVG"]] if math else []), *general], axis=0)
    return rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """A difference of `overall` in points with its 95 % interval, and how much of it is not format.

    With well-formed share W and accuracy among well-formed responses A, accuracy is A W, and the gain splits exactly
    into (A1 - A0) (W0 + W1) / 2, right answers among well-formed ones, and (W1 - W0) (A0 + A1) / 2, format.
    """

    points: float
    low: float
    high: float
    among_well_formed: float
    format: float


def gain(before: Scores, after: Scores, *, resamples: int = 2000, seed: int = 0) -> Gain:
    """Paired bootstrap over items (the same items under both models), stratified by benchmark."""
    return mean_gain([(before, after)], resamples=resamples, seed=seed)


def mean_gain(pairs: Sequence[tuple[Scores, Scores]], *, resamples: int = 2000, seed: int = 0) -> Gain:
    """The mean of the gains of several (before, after), of runs that differ in their seed for instance.

    The interval is over items alone: an item's difference is averaged over the pairs, and items are drawn again.
    """
    rng = np.random.default_rng(seed)
    first, _ = pairs[0]
    groups = {score.name: score.group for score in first.benchmarks}
    by_pair = [_differences(before, after) for before, after in pairs]
    drawn: dict[str, np.ndarray] = {}
    for score in first.benchmarks:
        asked = [part for before, _ in pairs for part in before.benchmarks if part.name == score.name]
        if len(asked) < len(pairs) or len({tuple(outcome.id for outcome in part.outcomes) for part in asked}) > 1:
            raise ValueError(f"benchmark {score.name}: the pairs hold different items; compare like with like")
        difference = np.mean([differences[score.name] for differences in by_pair], axis=0)
        index = rng.integers(len(difference), size=(resamples, len(difference)))
        drawn[score.name] = difference[index].mean(axis=1)
    points = float(np.mean([after.overall - before.overall for before, after in pairs]))
    low, high = _bounds(drawn, groups, estimate=points)
    among, form = np.mean([_split(before, after) for before, after in pairs], axis=0)
    return Gain(points=points, low=low, high=high, among_well_formed=float(among), format=float(form))


def _differences(before: Scores, after: Scores) -> dict[str, np.ndarray]:
    """After minus before, item by item, by benchmark: the mean of the headline columns in percent."""
    if before.headline != after.headline:
        raise ValueError(f"headlines differ ({before.headline}, {after.headline}); compare like with like")
    columns, found = after.headline_columns, {}
    for old, new in zip(before.benchmarks, after.benchmarks, strict=True):
        if [o.id for o in old.outcomes] != [o.id for o in new.outcomes]:
            raise ValueError(f"benchmark {old.name}: the two evaluations hold different items; compare like with like")
        found[old.name] = new.matrix()[:, columns].mean(axis=1) - old.matrix()[:, columns].mean(axis=1)
    return found


def _split(before: Scores, after: Scores) -> tuple[float, float]:
    """The exact two-way split of `Gain`, per benchmark and protocol, then averaged as Overall AVG is."""
    parts: dict[str, np.ndarray] = {}
    for old, new in zip(before.benchmarks, after.benchmarks, strict=True):
        rows = []
        for accuracy, well_formed in ((column, 4 if column == 0 else 5) for column in after.headline_columns):
            a0w0, a1w1 = old.matrix()[:, accuracy].mean(), new.matrix()[:, accuracy].mean()
            w0, w1 = old.matrix()[:, well_formed].mean(), new.matrix()[:, well_formed].mean()
            a0, a1 = (a0w0 / w0 if w0 else 0.0), (a1w1 / w1 if w1 else 0.0)
            rows.append(((a1 - a0) * (w0 + w1) / 2, (w1 - w0) * (a0 + a1) / 2))
        parts[old.name] = np.mean(rows, axis=0)
    among, form = averages(parts, {score.name: score.group for score in before.benchmarks})["Overall AVG"]
    return float(among), float(form)


def interval(scores: Scores, *, resamples: int = 2000, seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap interval of `overall` over items, stratified by benchmark."""
    rng = np.random.default_rng(seed)
    drawn: dict[str, np.ndarray] = {}
    for score in scores.benchmarks:
        values = score.matrix()[:, scores.headline_columns].mean(axis=1)
        drawn[score.name] = values[rng.integers(len(values), size=(resamples, len(values)))].mean(axis=1)
    return _bounds(drawn, {score.name: score.group for score in scores.benchmarks}, estimate=scores.overall)


def _bounds(drawn: dict[str, np.ndarray], groups: dict[str, str], *, estimate: float) -> tuple[float, float]:
    """The 2.5 % and 97.5 % quantiles of Overall AVG, never beyond the estimate.

    With an item or two in a benchmark all resamples are alike, and rounding alone puts them above or below it.
    """
    low, high = np.quantile(averages(drawn, groups)["Overall AVG"], [0.025, 0.975])
    return min(float(low), estimate), max(float(high), estimate)


def standard_errors(scores: Scores) -> dict[str, dict[str, float]]:
    """Standard errors over problems of each benchmark's four protocols, in points; 0 for a single problem.

    The k samples of a problem are averaged first: they are no independent evidence about other problems.
    """
    rows: dict[str, dict[str, float]] = {}
    for score in scores.benchmarks:
        matrix = score.matrix()[:, : len(PROTOCOLS)]
        errors = matrix.std(axis=0, ddof=1) / len(matrix) ** 0.5 if len(matrix) > 1 else np.zeros(len(PROTOCOLS))
        rows[score.name] = dict(zip(PROTOCOLS, map(float, errors), strict=True))
    return rows


def pass_at(scores: BenchmarkScore, *, k: int, draws: int) -> float:
    """pass@draws in percent, estimated without bias from k >= draws samples (Chen et al. 2021, equation 1)."""
    if not 1 <= draws <= k:
        raise ValueError(f"pass@{draws} needs at least that many samples, got {k}")
    rates = []
    for outcome in scores.outcomes:
        wrong = k - round(outcome.sampled * k)
        rates.append(1.0 if wrong < draws else 1.0 - float(np.prod(1.0 - draws / np.arange(wrong + 1, k + 1))))
    return 100.0 * float(np.mean(rates))


def spread(values: Sequence[float]) -> float:
    """Sample standard deviation over seeds (0 for a single seed)."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
