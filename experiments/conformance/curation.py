"""The curriculum against golden/curation: the authors' pipeline from the raw response on, and the paper's band.

`official`: parse as question_generate.py, vote as evaluate.py on nine answers, filter as upload.py with 0.3 and 0.8.
`paper`: the band on the vote over ten answers; that column of the file knows no other rule.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from experiments.conformance.presets import preset
from experiments.conformance.rows import Report, RowResult, differences, tracked
from experiments.conformance.voting import OFFICIAL_REASONS
from rzero.interfaces import Curriculum, Grader
from rzero.parsing import official_generation_parse
from rzero.types import Json, LabelledQuestion, Question, Vote
from rzero.voting import OfficialVote

WELL_FORMED = Question(text="-", answer="-")


def check_curation(rows: list[Json], path: Path) -> Report:
    """Parse, label, reason and kept row of each candidate, and whether the paper's band keeps it."""
    grader = preset("grader/official")
    try:
        paper = preset("curriculum/rule/paper")
        return Report([_check(row, grader=grader, paper=paper) for row in tracked(rows, title="curation")])
    finally:
        grader.close()


def documented(question: Question | None) -> str | None:
    """Why ours drops a question that the authors keep: the one place where the curriculum differs on purpose."""
    if question is not None and not question.text:
        return "D12: an empty question is no question"
    if question is not None and not question.answer:
        return "D13: an empty box is no answer"
    return None


def _check(row: Json, *, grader: Grader, paper: Curriculum) -> RowResult:
    question = official_generation_parse(row["generated"])
    if question is None or row["label_m9"] is None:
        why = differences([("parsed", question is not None, row["parse_ok"])])
        return RowResult(row["id"], not why, why=why)
    parsed = differences(
        [
            ("question", question.text, row["parsed"]["question"]),
            ("answer", question.answer, row["parsed"]["answer"]),
            ("parsed", True, row["parse_ok"]),
        ]
    )
    label: OfficialVote = preset("vote/official_label", grader=grader)
    reward: OfficialVote = preset("vote/official_reward", grader=grader)
    nine, ten = label.vote_many([row["solver_outputs"][:9]])[0], reward(row["solver_outputs"])
    official = preset("curriculum/rule/official").select([question], [nine], iteration=1)[0]
    in_band = paper.select([WELL_FORMED], [ten], iteration=1)[0].kept
    kept = [_official(row, official), differences([("paper band", in_band, row["paper_band_keep"])])]
    voted = [_vote_differences("m9", nine, row["label_m9"]["counts"]), _vote_differences("m10", ten, _m10(row))]
    fatal = "; ".join(line for line in (parsed, *voted) if line)
    found = "; ".join(line for line in kept if line)
    allowed = documented(question) if not fatal else None
    return RowResult(
        row["id"], not (fatal or found), allowed=allowed if found else None, why=f"{fatal} {found}".strip()
    )


def _m10(row: Json) -> Any:
    return None if row["vote_m10"] is None else row["vote_m10"]["counts"]


def _vote_differences(name: str, vote: Vote, counts: Any) -> str:
    return differences([(f"{name} counts", [list(pair) for pair in vote.counts], counts)])


def _official(row: Json, ours: LabelledQuestion) -> str:
    theirs = (row["official_drop_reason"] or "").split("+") if row["official_drop_reason"] else [None]
    reason = None if ours.drop_reason is None else OFFICIAL_REASONS[ours.drop_reason]
    compared: list[tuple[str, Any, Any]] = [
        ("kept", ours.kept, row["official_keep"]),
        ("reason", reason in theirs, True),
    ]
    if ours.kept and ours.vote is not None and row["official_row"] is not None:
        made = {"problem": ours.question, "answer": ours.vote.label, "score": ours.vote.agreement}
        compared.append(("row", made, row["official_row"]))
    return differences(compared)
