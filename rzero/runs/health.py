"""The health of the grader: comparisons that ended without a verdict must not pass for wrong answers unnoticed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from rzero.interfaces import Grader

FAILURES = ("gated", "killed", "errors")


@runtime_checkable
class CountingGrader(Protocol):
    """A grader that counts its comparisons by how they ended; `FAILURES` are those without a verdict."""

    @property
    def counters(self) -> Mapping[str, int]: ...


class GraderHealth:
    """Counts since the last look, as metrics, and an alarm.

    alarm_share: share of comparisons in [0, 1] that may end without a verdict (over the cost gate, killed over the
    budget, failed) before there is a warning. A grader that counts nothing has nothing to report.
    """

    def __init__(self, grader: Grader, *, alarm_share: float) -> None:
        if not 0 <= alarm_share <= 1:
            raise ValueError(f"grader_alarm must lie in [0, 1], got {alarm_share}")
        self._grader = grader if isinstance(grader, CountingGrader) else None
        self._alarm_share = alarm_share
        self._seen: dict[str, int] = {}
        self._warning = ""

    def look(self) -> Mapping[str, float]:
        """Returns metrics `perf/grader/<counter>` and `perf/grader/failed_share` since the last look.

        May leave a warning.
        """
        now = dict(self._grader.counters) if self._grader else {}
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
        """Returns the warning of the last look, once; empty when all is well."""
        warning, self._warning = self._warning, ""
        return warning
