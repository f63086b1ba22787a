"""The grader's alarm: counted since the last look, said once."""

import pytest

from rzero.runs.health import GraderHealth


class Counting:
    def __init__(self) -> None:
        self.counters = {"cheap": 0, "symbolic": 0, "gated": 0, "killed": 0, "errors": 0}


def test_the_alarm_goes_off_above_the_share_and_is_said_once() -> None:
    grader = Counting()
    health = GraderHealth(grader, alarm_share=0.1)
    grader.counters.update(cheap=90, killed=10)
    assert health.look()["perf/grader/failed_share"] == 0.1
    assert health.take_warning() == ""
    grader.counters.update(cheap=91, killed=11, gated=2)
    metrics = health.look()
    assert metrics["perf/grader/killed"] == 1
    assert metrics["perf/grader/failed_share"] == 0.75
    assert health.take_warning() == "warning: 75.0 % of 4 comparisons ended without a verdict (2 gated, 1 killed)"
    assert health.take_warning() == ""


def test_a_grader_without_counters_is_healthy() -> None:
    health = GraderHealth(object(), alarm_share=0.0)
    assert health.look() == {"perf/grader/failed_share": 0.0}
    assert health.take_warning() == ""


def test_a_share_outside_its_range_is_refused() -> None:
    with pytest.raises(ValueError, match="grader_alarm"):
        GraderHealth(object(), alarm_share=2)
