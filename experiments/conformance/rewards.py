"""Repetition and rewards against golden/repetition, golden/challenger_reward and golden/solver_reward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from experiments.conformance.presets import preset
from experiments.conformance.rows import Report, RowResult, differences, tracked
from rzero.interfaces import ChallengerReward
from rzero.parsing import QuestionParser, official_reward_parse, tag_only_parse
from rzero.repetition import bleu_distance, cluster_shares
from rzero.types import Json, Question, Vote

TOLERANCE = 1e-9
BATCH_OF_ONE = "D5: the authors' clustering raises on a batch of one; ours gives it the share 1"


def check_repetition(rows: list[Json], path: Path) -> Report:
    """Shares to 1e-9, distances where they were recorded, on rows at the very threshold too."""
    return Report([_check_repetition(row) for row in tracked(rows, title="repetition")])


def _check_repetition(row: Json) -> RowResult:
    questions = row["questions"]
    shares = cluster_shares(questions, threshold=row["distance_threshold"])
    if row["error"] is not None:
        return RowResult(row["id"], False, allowed=BATCH_OF_ONE if len(questions) == 1 else None, why=row["error"])
    wrong = [i for i, (ours, theirs) in enumerate(zip(shares, row["shares"], strict=True)) if not _close(ours, theirs)]
    why = [f"share of question {i}: {shares[i]} != {row['shares'][i]}" for i in wrong[:3]]
    for i, recorded in enumerate(row.get("distance_matrix") or ()):
        for j in range(i + 1, len(recorded)):
            distance = bleu_distance(questions[i].split(), questions[j].split())
            if not _close(distance, recorded[j]):
                why.append(f"distance {i}, {j}: {distance} != {recorded[j]}")
    return RowResult(row["id"], not why, why="; ".join(why))


def check_challenger_reward(rows: list[Json], path: Path) -> Report:
    """The presets official, pre_2025_12 and paper (twice: two notions of format) on every recorded batch."""
    return Report([_check_challenger(row) for row in tracked(rows, title="challenger_reward")])


def _check_challenger(row: Json) -> RowResult:
    if row["error"] is not None:
        alone = len(row["predictions"]) == 1
        return RowResult(row["id"], False, allowed=BATCH_OF_ONE if alone else None, why=row["error"])
    columns = (
        ("rewards", "challenger_reward/official", official_reward_parse),
        ("rewards_pre_2025_12_10", "challenger_reward/pre_2025_12", official_reward_parse),
        ("rewards_paper", "challenger_reward/paper", official_reward_parse),
        ("rewards_paper_tagonly", "challenger_reward/paper", _tag_suffices),
    )
    why = [_column_differences(row, column, preset(name), parse) for column, name, parse in columns]
    parsed = [official_reward_parse(prediction) for prediction in row["predictions"]]
    service = [_as_sent(question) for question in parsed]
    recorded = [
        item if item["question"] and item["answer"] else {"question": "", "answer": ""} for item in row["parsed"]
    ]
    why.append(differences([("parsed", service, recorded)]))
    found = "; ".join(line for line in why if line)
    return RowResult(row["id"], not found, why=found)


def _column_differences(row: Json, column: str, reward: ChallengerReward, parse: QuestionParser) -> str:
    questions = [parse(prediction) for prediction in row["predictions"]]
    votes = [
        _vote(score, majority) for score, majority in zip(row["solver_scores"], row["solver_majorities"], strict=True)
    ]
    ours = [breakdown.total for breakdown in reward(questions, votes)]
    theirs: Sequence[float] = row[column]
    wrong = [i for i in range(len(theirs)) if not _close(ours[i], theirs[i])]
    return "; ".join(f"{column} {i}: {ours[i]} != {theirs[i]}" for i in wrong[:3])


def _vote(score: float, majority: str | None) -> Vote | None:
    """The recorded outcome of the Solver's vote as one of ours; -1 is the authors' mark for a failed vote."""
    if score < 0:
        return None
    count = round(score * 10)
    return Vote(label=majority, count=count, divisor=10, counts=((majority or "", count),), answers=())


def _tag_suffices(response: str) -> Question | None:
    """The second paper column of the file: a question in tags is enough, whatever the box."""
    question = tag_only_parse(response)
    return None if question is None else Question(text=question.text, answer=question.answer or "-")


def _as_sent(question: Question | None) -> dict[str, str]:
    if question is None:
        return {"question": "", "answer": ""}
    return {"question": question.text, "answer": (question.answer or "")[-1:]}


def check_solver_reward(rows: list[Json], path: Path) -> Report:
    """Accuracy, format and total of the official Solver reward."""
    grader = preset("grader/official")
    try:
        reward: Callable[..., Any] = preset("solver_reward/official", grader=grader)
        return Report([_check_solver(row, reward) for row in tracked(rows, title="solver_reward")])
    finally:
        grader.close()


def _check_solver(row: Json, reward: Callable[..., Any]) -> RowResult:
    [[breakdown]] = reward([[row["prediction"]]], [row["label"]])
    why = differences(
        [
            ("overall", breakdown.total, row["overall"]),
            ("format", breakdown.parts["format"], row["format"]),
            ("accuracy", breakdown.parts["accuracy"], row["accuracy"]),
        ]
    )
    return RowResult(row["id"], not why, why=why)


def _close(left: float, right: float) -> bool:
    return abs(left - right) <= TOLERANCE
