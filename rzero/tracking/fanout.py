"""No tracker, and several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rzero.interfaces import Tracker
from rzero.runs.ledger import Position
from rzero.types import Artifact, LabelledQuestion


class NullTracker:
    """Nothing besides the JSONL record, and not even that in processes that do not write."""

    def log(self, metrics: Mapping[str, float], *, step: int) -> None: ...

    def questions(self, labelled: Sequence[LabelledQuestion], *, step: int) -> None: ...

    def artifact(self, made: Artifact) -> None: ...

    def position(self) -> Position:
        return Position()

    def close(self) -> None: ...


class Fanout:
    """Sends everything to several trackers."""

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self.trackers = tuple(trackers)

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        for tracker in self.trackers:
            tracker.log(metrics, step=step)

    def questions(self, labelled: Sequence[LabelledQuestion], *, step: int) -> None:
        for tracker in self.trackers:
            tracker.questions(labelled, step=step)

    def artifact(self, made: Artifact) -> None:
        for tracker in self.trackers:
            tracker.artifact(made)

    def close(self) -> None:
        for tracker in self.trackers:
            tracker.close()
