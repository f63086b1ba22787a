"""How the grader is doing: comparisons that ended without a verdict must not pass for wrong answers unnoticed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FAILURES = ("gated", "killed", "errors")


class GraderHealth:
    """Counts since the last look, as metrics, and an alarm.

    alarm_share: share of comparisons in [0, 1] that may end without a verdict (over the cost gate, killed over the
    budget, failed) before there is a warning. A grader without counters has nothing to report.
    """

    def __init__(self, grader: Any, *, alarm_share: float) -> None:
        if not 0 <= alarm_share <= 1:
            raise ValueError(f"grader_alarm must lie in [0, 1], got {alarm_share}")
        self._grader, self._alarm_share = grader, alarm_share
        self._seen: dict[str, int] = {}
        self._warning = ""

    def look(self) -> Mapping[str, float]:
        """Metrics `perf/grader/<counter>` and `perf/grader/failed_share` since the last look; may leave a warning."""
        now = dict(getattr(self._grader, "counters", {}))
        counts = {name: count - self._seen.get(name, 0) for name, count in now.items()}
        self._seen = now
        total = sum(counts.values())
        failed = sum(counts.get(name, 0) for name in FAILURES)
        share = failed / total if total else 0.0
        if share > self._alarm_share:
            what = ", ".join(f"{counts[name]} {name}" for name in FAILURES if counts.get(name))
            self._warning = f"warning: {100 * share:.1f} % of {total} comparisons ended without a verdict ({what})"
        return {
            **{f"perf/grader/{name}": float(count) for name, count in sorted(counts.items())},
            "perf/grader/failed_share": share,
        }

    def take_warning(self) -> str:
        """The warning of the last look, once; empty when all is well."""
        warning, self._warning = self._warning, ""
        return warning
