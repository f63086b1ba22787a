r"""Reading and comparing answers, against golden/eval_extract: what the authors' scripts did with a response.

Their maths scorer and option reader are defective (docs/authors_code.md, D1, D2, D17, D18), so ours differs on purpose.
A difference is accepted only where the row itself shows the defect: its box is not the last one, runs on or spans lines
(D2), what is compared is not a plain number (D1), a letter was drawn or found by scanning words (D17), LaTeX or digit
groups were compared as text (D18). Plain numbers and plain letters must agree.
"""

from __future__ import annotations

import re
from pathlib import Path

from evaluation.judging import Judge, Judged, NoFallback
from evaluation.phrases import same_phrase
from experiments.conformance.presets import preset
from experiments.conformance.rows import Report, RowResult, tracked
from rzero.types import Json
from rzero.voting import PaperVote

Row = Json

OPTIONS = 10  # the authors always read A..J
_PLAIN_NUMBER = re.compile(r"\s*[-+]?\d+(?:\.\d+)?\s*")
_PLAIN_LETTER = re.compile(r"\W*(?:\\(?:text(?:bf)?|math(?:rm|bf)?)\s?\{\W*)*([A-J])\W*")
_BOX = re.compile(r"\\boxed", re.IGNORECASE)
_FIRST_BOX_ON_A_LINE = re.compile(r"\\boxed[ \t]*\{[^\n]*\}", re.IGNORECASE)


def check_eval_extract(rows: list[Row], path: Path) -> Report:
    """Every row of the four tasks: our verdict (and for options our letter) against the recorded one."""
    with preset("grader/default") as grader:
        judge = Judge(grader=grader, vote=PaperVote(grader), reading="boxed", fallback=NoFallback())
        return Report([_check(row, judge) for row in tracked(rows, title="eval_extract")])


def _check(row: Row, judge: Judge) -> RowResult:
    match row["task"]:
        case "math":
            return _check_mathematics(row, _judged(row, judge, kind="mathematics"))
        case "mmlu_pro" | "supergpqa":
            return _check_option(row, _judged(row, judge, kind="option"))
        case "bbeh":
            return _check_phrase(row, _judged(row, judge, kind="phrase"))
        case "bbeh_fuzzy":
            ours = same_phrase(row["prediction_text"], row["gold"])
            return RowResult(row["id"], ours == row["correct"], why="" if ours == row["correct"] else f"ours {ours}")
        case task:
            return RowResult(row["id"], False, why=f"unknown task {task!r}")


def _judged(row: Row, judge: Judge, *, kind: str) -> Judged:
    document = {"id": row["id"], "kind": kind, "answers": [row["gold"]], "options": OPTIONS, "entry": ""}
    return judge(document, [row["response"]])


def _result(row: Row, *, ours: object, theirs: object, reason: str | None) -> RowResult:
    why = f"{row['response'][-80:]!r}, gold {row['gold']!r}: ours {ours}, recorded {theirs}"
    return RowResult(row["id"], ours == theirs, allowed=None if ours == theirs else reason, why=why)


def _check_mathematics(row: Row, judged: Judged) -> RowResult:
    recorded = row["correct_mv090"]
    return _result(row, ours=judged.right[0], theirs=recorded, reason=_mathematics_defect(row, judged.answers[0]))


def _mathematics_defect(row: Row, answer: str | None) -> str | None:
    box = row["extracted"]
    if len(_BOX.findall(row["response"])) > 1:
        return "D2: the first of several boxes was taken"
    if box is None and answer is not None and not _FIRST_BOX_ON_A_LINE.search(row["response"]):
        return "D2: a box of several lines was not seen"
    if box is not None and box.count("{") != box.count("}"):
        return "D2: the box runs on, or stops, at the end of its line"
    if box is not None and not (_PLAIN_NUMBER.fullmatch(box) and _PLAIN_NUMBER.fullmatch(row["gold"])):
        return "D1: compared as bare text, of which the scorer reads plain numbers only"
    return None


def _check_option(row: Row, judged: Judged) -> RowResult:
    return _result(row, ours=judged.answers[0], theirs=row["prediction"], reason=_option_defect(row, judged.answers[0]))


def _option_defect(row: Row, answer: str | None) -> str | None:
    if row["random_fallback"]:
        return "D17: a random letter, although the response states one" if answer else None
    if not _PLAIN_LETTER.fullmatch(row["extracted"]):
        return "D17: the first of A..J that occurs anywhere in the answer was taken"
    return None


def _check_phrase(row: Row, judged: Judged) -> RowResult:
    # the scripts compare a missing answer as the empty text
    ours = judged.right[0] if judged.answers[0] is not None else same_phrase("", row["gold"])
    return _result(row, ours=ours, theirs=row["correct"], reason=_phrase_defect(row, judged.answers[0]))


def _phrase_defect(row: Row, answer: str | None) -> str | None:
    box = row["extracted"]
    if box is None:
        return "D17: an announced answer needs a line break behind it" if answer else None
    if "\n" in box.strip():
        return "D18: a box of several lines was cut to its first"
    if "\\" in box or "\\" in row["gold"] or re.search(r"\d,\d{3}", f"{box} {row['gold']}"):
        return "D18: LaTeX and digit groups were compared as text"
    return None
