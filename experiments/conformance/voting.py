"""Votes against golden/votes: the authors' reward rule, label rule (m = 9, 10) and the rule before 26 August 2025."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.conformance.presets import preset
from experiments.conformance.rows import Report, RowResult, differences, tracked
from rzero.interfaces import Grader
from rzero.types import Json, Question, Vote
from rzero.voting import GradingError, OfficialVote, Pair, Verdict

# our drop reasons in the words of the golden files
OFFICIAL_REASONS = {
    "no_question": "parse",
    "no_answer": "parse",
    "no_majority": "no_extraction",
    "asks_for_proof": "question_contains_证明",
    "contains_box": "question_contains_box",
    "label_contains_text": "majority_contains_text",
    "label_is_none": "answer_empty_or_None",
    "below_band": "band",
    "above_band": "band",
}


class SimulatedGrader:
    """Another grader, but for some ordered pairs that time out or fail, as the `sim_*` rows ask for."""

    def __init__(self, grader: Grader, *, timeouts: Sequence[Sequence[str]], raises: Sequence[Sequence[str]]) -> None:
        self.grader = grader
        self.timeouts = {tuple(pair) for pair in timeouts}
        self.raises = {tuple(pair) for pair in raises}

    def extract(self, response: str) -> str | None:
        return self.grader.extract(response)

    def accepts_many(self, pairs: Sequence[Pair]) -> list[Verdict]:
        return [
            self._verdict(pair, verdict) for pair, verdict in zip(pairs, self.grader.accepts_many(pairs), strict=True)
        ]

    def _verdict(self, pair: Pair, verdict: bool) -> Verdict:
        if pair in self.timeouts:
            return TimeoutError("simulated")
        return GradingError("simulated") if pair in self.raises else verdict


def check_votes(rows: list[Json], path: Path) -> Report:
    """Extractions, clusters, majority and score of every recorded vote, and whether the label is kept."""
    grader = preset("grader/official")
    try:
        return Report([_check(row, grader=grader) for row in tracked(rows, title="votes")])
    finally:
        grader.close()


def _check(row: Json, *, grader: Grader | SimulatedGrader) -> RowResult:
    simulated = row.get("simulate") or {}
    if simulated and not isinstance(grader, SimulatedGrader):
        grader = SimulatedGrader(grader, timeouts=simulated.get("timeouts", ()), raises=simulated.get("raises", ()))
    reward: OfficialVote = preset("vote/official_reward", grader=grader)
    label: OfficialVote = preset("vote/official_label", grader=grader)
    why = [_reward_differences(row["reward"], reward(row["answers"]))]
    for name, answers in (("label", row["answers"][:9]), ("label_m10", row["answers"])):
        if row.get(name) is not None:
            why.append(_label_differences(name, row[name], label(answers), question=row.get("question") or ""))
    if row.get("reward_pre_2025_08_26"):
        earlier: OfficialVote = preset("vote/official_reward_2025_08", grader=grader)
        why += [_earlier_differences(case, earlier(row["answers"])) for case in row["reward_pre_2025_08_26"]]
    found = "; ".join(line for line in why if line)
    return RowResult(row["id"], not found, why=found)


def _counts(vote: Vote) -> list[list[Any]]:
    return [list(pair) for pair in vote.counts]


def _reward_differences(recorded: Json, vote: Vote) -> str:
    score = vote.agreement
    return differences(
        [
            ("reward extracted", list(vote.answers), recorded["extracted"]),
            ("reward counts", _counts(vote), recorded["counts"]),
            ("reward majority", vote.label or "", recorded["majority"]),
            ("reward score", score, recorded["score"]),
            ("reward uncertainty", min(score, 1 - score), recorded["head_uncertainty"]),
        ]
    )


def _label_differences(name: str, recorded: Json, vote: Vote, *, question: str) -> str:
    votes = [answer for answer in vote.answers if answer]
    reason = _label_reason(question, vote)
    compared = [(f"{name} votes", votes, recorded["votes"]), (f"{name} kept", reason is None, recorded["kept"])]
    if recorded["drop_reason"] == "exception":  # the recorded counts stop where the exception struck
        compared.append((f"{name} majority", vote.label, recorded["majority"]))
    else:
        compared += [
            (f"{name} counts", _counts(vote), recorded["counts"]),
            (f"{name} majority", vote.label, recorded["majority"]),
            (f"{name} reason", reason in (recorded["drop_reason"] or "").split("+") or reason is None, True),
        ]
        if vote.label is not None:
            compared.append((f"{name} score", vote.agreement, recorded["score"]))
    return differences(compared)


def _label_reason(question: str, vote: Vote) -> str | None:
    """Returns what evaluate.py drops, which is before the band and before the rules on empty and None answers."""
    labelled = preset("curriculum/rule/official").select(
        [Question(text=question or "-", answer="-")], [vote], iteration=1
    )[0]
    reason = None if labelled.drop_reason is None else OFFICIAL_REASONS[labelled.drop_reason]
    return None if reason in ("band", "answer_empty_or_None") else reason


def _earlier_differences(recorded: Json, vote: Vote) -> str:
    paid = vote.label == recorded["golden"] and vote.agreement > 0.1
    return differences(
        [
            ("2025-08 counts", _counts(vote), recorded["counts"]),
            ("2025-08 majority", vote.label or "", recorded["majority"]),
            ("2025-08 score", vote.agreement if paid else 0, recorded["score"]),
        ]
    )
