"""Metrics as CSV for spreadsheets, one value a line: metrics differ from stage to stage, so columns would not do."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from rzero.durable import write_atomically
from rzero.escaping import csv_cell
from rzero.types import Artifact, LabelledQuestion

COLUMNS = ("step", "iteration", "metric", "value")


class CsvTracker:
    """Lines `step,iteration,metric,value`; an empty value was not finite. Pivot by metric to get columns.

    committed_step: the last step of a complete stage. What a stopped attempt wrote after it is about to be repeated and
    is cut off. Raises ValueError when `path` is there and is no such file.
    """

    def __init__(self, *, path: str | Path, committed_step: int = 0) -> None:
        self.path = Path(path)
        lines = [_line(COLUMNS), *(_line(row) for row in _rows(self.path) if int(row[0]) <= committed_step)]
        write_atomically(self.path, "".join(lines).encode())
        self._file = open(self.path, "a", encoding="utf-8", newline="")  # noqa: SIM115 - lives as long as the run

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        iteration = str(round(metrics["iteration"])) if "iteration" in metrics else ""
        for name, value in metrics.items():
            if name != "iteration":
                shown = repr(float(value)) if math.isfinite(value) else ""
                self._file.write(_line((str(step), iteration, name, shown)))
        self._file.flush()

    def questions(self, labelled: Sequence[LabelledQuestion], *, step: int) -> None: ...

    def artifact(self, made: Artifact) -> None: ...

    def close(self) -> None:
        self._file.close()


def _line(row: Sequence[str]) -> str:
    """Numbers stay numbers; the metric's name is text, which a spreadsheet must not take for a formula."""
    step, iteration, metric, value = row
    return f"{step},{iteration},{csv_cell(metric)},{value}\n"


def _rows(path: Path) -> list[list[str]]:
    """Returns the rows of the file, without its head and without half a line at its end."""
    if not path.exists():
        return []
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.reader(text for text in file if text.endswith("\n")))
    if rows and tuple(rows[0]) != COLUMNS:
        raise ValueError(
            f"{path} is no metrics file of a run (its first line is not {','.join(COLUMNS)}); move it away"
        )
    return [row for row in rows[1:] if len(row) == len(COLUMNS)]
