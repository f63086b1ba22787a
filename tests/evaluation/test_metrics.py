"""Averages, intervals and the split of a gain, on values worked out by hand."""

import pytest

from evaluation.metrics import BenchmarkScore, Outcome, Scores, gain, interval, spread


def outcome(number: int, greedy: bool, sampled: float, boxed: float = 1.0) -> Outcome:
    return Outcome(
        id=f"i{number}",
        level=1,
        greedy=greedy,
        greedy_boxed=True,
        sampled=sampled,
        sampled_boxed=boxed,
        majority=greedy,
        any_right=sampled > 0,
    )


def scores(**benchmarks: tuple[str, list[tuple[bool, float, float]]]) -> Scores:
    return Scores(
        k=4,
        benchmarks=tuple(
            BenchmarkScore(name=name, group=group, outcomes=tuple(outcome(i, *row) for i, row in enumerate(rows)))
            for name, (group, rows) in benchmarks.items()
        ),
    )


GROUPS = {"a": "math", "b": "math", "c": "math", "d": "general", "e": "general", "f": "general"}
BASE = scores(
    a=("math", [(True, 0.5, 1.0), (False, 0.5, 1.0)]),
    b=("math", [(True, 1.0, 1.0), (True, 0.0, 1.0)]),
    c=("general", [(False, 0.0, 0.5), (False, 0.5, 0.5)]),
)


def test_overall_is_the_mean_of_math_avg_and_each_general_benchmark() -> None:
    table = BASE.table()
    assert table["a"]["greedy"] == 50
    assert table["MATH AVG"]["greedy"] == 75
    assert table["GENERAL AVG"]["greedy"] == 0
    assert table["Overall AVG"]["greedy"] == 37.5
    assert table["Overall AVG"]["mean@k"] == (50 + 25) / 2
    assert BASE.overall == 37.5


def test_a_gain_splits_exactly_into_right_answers_and_format() -> None:
    after = scores(
        a=("math", [(True, 0.5, 1.0), (True, 0.5, 1.0)]),
        b=("math", [(True, 1.0, 1.0), (True, 0.0, 1.0)]),
        c=("general", [(False, 0.0, 1.0), (False, 1.0, 1.0)]),
    )
    result = gain(BASE, after)
    # greedy: a +50, so MATH AVG +25 and Overall +12.5; mean@k: c 25 -> 50, so Overall +12.5
    assert result.points == pytest.approx(12.5)
    assert result.among_well_formed + result.format == pytest.approx(result.points)
    # c: of 25 points none is accuracy among well-formed (0.5 before and after), all is format
    assert result.format == pytest.approx(6.25)
    assert result.low <= result.points <= result.high


def test_evaluations_of_different_items_are_not_compared() -> None:
    other = scores(a=("math", [(True, 0.5, 1.0)]), b=BASE_ROWS["b"], c=BASE_ROWS["c"])
    with pytest.raises(ValueError, match="different items"):
        gain(BASE, other)


BASE_ROWS = {
    "b": ("math", [(True, 1.0, 1.0), (True, 0.0, 1.0)]),
    "c": ("general", [(False, 0.0, 0.5), (False, 0.5, 0.5)]),
}


def test_scores_survive_json() -> None:
    assert Scores.from_json(BASE.to_json()).table() == BASE.table()


def test_the_interval_of_a_constant_is_a_point() -> None:
    constant = scores(a=("math", [(True, 1.0, 1.0)] * 5))
    assert interval(constant) == (100, 100)


@pytest.mark.parametrize("eighths", range(9))
def test_an_interval_holds_its_estimate_however_few_items_there_are(eighths: int) -> None:
    """All resamples of a single item are alike; sums in another order must not put them beside the estimate."""
    right = eighths / 8
    before = scores(**{name: (group, [(False, 0.3, 1.0)]) for name, group in GROUPS.items()})
    after = scores(**{name: (group, [(True, right / (i + 3), 1.0)]) for i, (name, group) in enumerate(GROUPS.items())})
    low, high = interval(after)
    assert low <= after.overall <= high
    change = gain(before, after)
    assert change.low <= change.points <= change.high
    assert change.high - change.low < 1e-9


def test_spread_is_the_sample_standard_deviation() -> None:
    assert spread([1.0, 3.0]) == pytest.approx(2**0.5)
    assert spread([1.0]) == 0.0
