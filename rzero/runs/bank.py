"""The question bank: everything that was posed in an iteration, with every answer's vote, one JSON object a line.

`pandas.read_json(path, lines=True)` and `datasets.load_dataset("json", data_files=path)` read the files as they are.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from rzero.durable import write_atomically
from rzero.escaping import json_line
from rzero.runs.directory import RunDirectory
from rzero.types import Json, LabelledQuestion, Vote


def to_row(question: LabelledQuestion) -> Json:
    """A flat row; empty vote columns mean that the question was dropped before it was put to the Solver."""
    vote = question.vote
    return {
        "iteration": question.iteration,
        "index": question.index,
        "kept": question.kept,
        "drop_reason": question.drop_reason or "",
        "question": question.question,
        "challenger_answer": question.challenger_answer,
        "label": vote.label if vote else None,
        "agreement": vote.agreement if vote else None,
        "count": vote.count if vote else None,
        "divisor": vote.divisor if vote else None,
        "answers": list(vote.answers) if vote else [],
        "counts": [{"answer": answer, "count": count} for answer, count in vote.counts] if vote else [],
        **({"others": [_other(other) for other in vote.others]} if vote and vote.others else {}),
    }


def _other(vote: Vote) -> Json:
    """What another voter said, in the words of a row."""
    return {
        "label": vote.label,
        "count": vote.count,
        "divisor": vote.divisor,
        "answers": list(vote.answers),
        "counts": [{"answer": answer, "count": count} for answer, count in vote.counts],
    }


def _vote(row: Json) -> Vote:
    return Vote(
        label=row["label"],
        count=row["count"],
        divisor=row["divisor"],
        counts=tuple((entry["answer"], entry["count"]) for entry in row["counts"]),
        answers=tuple(row["answers"]),
        others=tuple(map(_vote, row.get("others", []))),
    )


def from_row(row: Json) -> LabelledQuestion:
    vote = None if row["divisor"] is None else _vote(row)
    return LabelledQuestion(
        iteration=row["iteration"],
        index=row["index"],
        question=row["question"],
        challenger_answer=row["challenger_answer"],
        vote=vote,
        drop_reason=row["drop_reason"] or None,
    )


class JsonlBank:
    """The bank of a run: `questions_<iteration>.jsonl` in its directory."""

    def __init__(self, directory: RunDirectory) -> None:
        self.directory = directory

    def put(self, iteration: int, questions: Sequence[LabelledQuestion]) -> None:
        lines = (json_line(to_row(question)) + "\n" for question in questions)
        write_atomically(self.directory.questions(iteration), "".join(lines).encode())

    def get(self, iteration: int) -> list[LabelledQuestion]:
        """Raises FileNotFoundError when nothing was put for this iteration."""
        text = self.directory.questions(iteration).read_text(encoding="utf-8")
        return [from_row(json.loads(line)) for line in text.split("\n") if line]
