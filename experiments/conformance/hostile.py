"""Hostile text: answers that try to hang, fill or take over the grader, questions that try to break what shows them."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import tempfile
import time
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from experiments.conformance.presets import preset
from experiments.conformance.rows import Report, RowResult, tracked
from rzero import escaping
from rzero.grading import MathGrader
from rzero.types import Json

Row = Json
R = TypeVar("R")

HOSTILE_CPU_SECONDS = 2.0
HOSTILE_MEMORY_MB = 512
PARTNERS = ("1/2", "x^2+1")


def text_of(row: Row) -> str:
    """The text of a hostile row; long ones are stored as repeated parts."""
    return row["text"] if "text" in row else "".join(part * count for part, count in row["parts"])


def check_hostile_answers(rows: list[Row], path: Path) -> Report:
    """Every answer, raw and as the content of its box: bounded CPU and memory, symmetric, stable, nothing executed."""
    results = []
    with canary() as executed, preset("grader/default") as grader:
        grader.accepts("x^2", "x*x")  # the imports of the worker are not the first row's fault
        for row in tracked(rows, title="hostile answers"):
            why = _hostile_answer(grader, text_of(row))
            if peak_memory_mb(grader.pool.pids) > HOSTILE_MEMORY_MB:
                why.append("worker over its memory")
            if executed():
                why.append("executed")
            results.append(RowResult(id=row["id"], agree=not why, why="; ".join(why)))
    return Report(results)


def _hostile_answer(grader: MathGrader, text: str) -> list[str]:
    """Returns what is wrong with how `text` was treated. The grader does not remember it yet."""
    why: list[str] = []
    boxed = timed(lambda: grader.extract(text), grader, why, "extract")
    for answer in dict.fromkeys([text, boxed or text]):
        for partner in PARTNERS:
            forward = timed(lambda: grader.accepts(answer, partner), grader, why, f"vs {partner}")  # noqa: B023
            if forward != grader.accepts(partner, answer):
                why.append(f"not symmetric against {partner}")
        row = [answer, *PARTNERS, answer]
        if timed(lambda: grader.classes([row]), grader, why, "classes")[0][-1] != 0:  # noqa: B023
            why.append("not in its own class")
        if answer.strip() and not timed(lambda: grader.accepts(answer, answer), grader, why, "vs itself"):  # noqa: B023
            why.append("not equal to itself")
    return why


def timed(action: Callable[[], R], grader: MathGrader, why: list[str], name: str) -> R:
    """Run, and note in `why` if parent and workers together used more CPU than a hostile answer may."""
    before = time.process_time() + cpu_seconds(grader.pool.pids)
    result = action()
    used = time.process_time() + cpu_seconds(grader.pool.pids) - before
    if used > HOSTILE_CPU_SECONDS:
        why.append(f"{name}: {used:.2f} CPU seconds")
    return result


def cpu_seconds(keepers: Sequence[int]) -> float:
    """CPU seconds of worker processes and their servers, dead ones included."""
    total = 0.0
    for pid in [*keepers, *children(keepers)]:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += sum(int(field) for field in fields[11:15]) / os.sysconf("SC_CLK_TCK")
    return total


def peak_memory_mb(keepers: Sequence[int]) -> float:
    """The highest resident size any living worker process has had."""
    peak = 0.0
    for pid in [*keepers, *children(keepers)]:
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except OSError:
            continue
        if found := re.search(r"VmHWM:\s+(\d+) kB", status):
            peak = max(peak, int(found[1]) / 1024)
    return peak


def children(pids: Sequence[int]) -> list[int]:
    """Direct children of processes."""
    found = []
    for pid in pids:
        try:
            found += [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        except OSError:
            continue
    return found


@contextmanager
def canary() -> Iterator[Callable[[], bool]]:
    """A file that hostile payloads create when they run, here and in the temporary folder; yields "did one appear?"."""
    folder = Path(tempfile.mkdtemp(prefix="rzero-conformance-"))
    target = folder / "canary"
    before = set(Path(tempfile.gettempdir()).glob("*canary*"))
    old = os.environ.get("RZERO_CANARY")
    os.environ["RZERO_CANARY"] = str(target)
    try:
        yield lambda: target.exists() or bool(set(Path(tempfile.gettempdir()).glob("*canary*")) - before)
    finally:
        if old is None:
            del os.environ["RZERO_CANARY"]
        else:
            os.environ["RZERO_CANARY"] = old
        target.unlink(missing_ok=True)
        folder.rmdir()


EXTRACTION_SECONDS = 0.1  # for text up to a million characters, on an idle core
_MUST_REJECT = ("reject", "rejected")


def check_hostile_questions(rows: list[Row], path: Path) -> Report:
    """Completions are parsed or rejected in linear time, names are refused, every text survives its sinks."""
    return Report([_hostile_question(row) for row in tracked(rows, title="hostile questions")])


def _hostile_question(row: Row) -> RowResult:
    from rzero.parsing import parse_question

    text = text_of(row)
    why: list[str] = []
    if row["form"] == "name":
        try:
            escaping.checked_name(text)
            why.append("accepted as a name")
        except ValueError:
            pass
    else:
        response = text if row["form"] == "completion" else f"<question>{text}</question>\n\\boxed{{1}}"
        started = time.process_time()
        parsed = parse_question(response)
        used = time.process_time() - started
        if used > EXTRACTION_SECONDS * max(1.0, len(response) / 1e6):
            why.append(f"parsing took {used:.3f} CPU seconds")
        rejected = parsed is None or parsed.answer is None
        if row["expect"].startswith(_MUST_REJECT) and "pair rightly" not in row["expect"] and not rejected:
            why.append(f"accepted: {str(parsed)[:80]!r}")
        if row["expect"] == "accept" and rejected:
            why.append("rejected")
        if row["form"] == "question" and parsed is not None and not _kept(text, parsed.text):
            why.append("text changed by parsing")
    why += sink_faults(text)
    return RowResult(id=row["id"], agree=not why, why="; ".join(why))


def _kept(text: str, parsed: str) -> bool:
    return parsed == text.strip().replace("\0", "") or "question>" in text or "\\boxed" in text


def sink_faults(text: str) -> list[str]:
    """Returns what is wrong with `text` after each sink of `rzero.escaping`; empty when all is well."""
    faults = []
    line = escaping.json_line({"text": text})
    if not line.isascii() or "\n" in line or json.loads(line)["text"] != escaping.valid_unicode(text):
        faults.append("jsonl")
    csv.field_size_limit(1 << 24)
    cell = next(csv.reader(io.StringIO(escaping.csv_cell(text), newline=""), strict=True), [""])
    if len(cell) > 1 or cell[0].lstrip(" ")[:1] in tuple("=+-@"):
        faults.append("csv")
    if re.search(r"<[a-zA-Z/!]", escaping.html_text(text)) or '"' in escaping.html_text(text):
        faults.append("html")
    markdown = escaping.markdown_cell(text)
    if "\n" in markdown or re.search(r"(?<!\\)[|`<]", markdown):
        faults.append("markdown")
    if any(unicodedata.category(character)[0] == "C" for character in escaping.terminal_text(text)):
        faults.append("terminal")
    name = escaping.slug(text)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name) or ".." in name:
        faults.append("slug")
    return faults
