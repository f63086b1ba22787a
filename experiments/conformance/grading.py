"""Conformance of the graders: recorded verdicts of people and published harnesses, and hostile text.

These kinds have thresholds, because the recorded verdicts are themselves wrong here and there: each report says how
many rows agree, and by how much the goal was met or missed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from experiments.conformance.hostile import check_hostile_answers, check_hostile_questions
from experiments.conformance.presets import preset
from experiments.conformance.rows import Report, RowResult, tracked
from rzero.grading import MathGrader
from rzero.grading.choices import choice_answer, short_answer
from rzero.grading.prose import prose_answer
from rzero.types import Json

__all__ = ["check_grader", "check_hostile_answers", "check_hostile_questions", "check_outputs", "check_pairs"]

Row = Json

PAIRS_GOAL = 0.995
OUTPUTS_GOAL = 0.988
CASES_GOAL = 0.94
DERIVED_GOAL = 0.998
FIELD_GOAL = 0.97


@dataclass(frozen=True, slots=True)
class ThresholdReport(Report):
    """Passes when the weighted share of rows that agree reaches `goal` and `forbidden` (hard failures) is empty."""

    weights: Sequence[float] = ()
    goal: float = 1.0
    forbidden: Sequence[str] = ()

    @property
    def score(self) -> float:
        """Weighted share of rows that agree or differ for a documented reason, in [0, 1]."""
        weights = self.weights or [1.0] * len(self.results)
        right = sum(weight for weight, result in zip(weights, self.results, strict=True) if not result.wrong)
        return right / sum(weights) if weights else 0.0

    @property
    def raw_score(self) -> float:
        """The same with documented differences counted as wrong."""
        weights = self.weights or [1.0] * len(self.results)
        right = sum(weight for weight, result in zip(weights, self.results, strict=True) if result.agree)
        return right / sum(weights) if weights else 0.0

    @property
    def passed(self) -> bool:
        return bool(self.results) and self.score >= self.goal and not self.forbidden


def report(
    rows: Sequence[RowResult], *, goal: float, weights: Sequence[float] = (), forbidden: Sequence[str] = ()
) -> ThresholdReport:
    """A report whose note states score and goal."""
    result = ThresholdReport(results=rows, weights=weights, goal=goal, forbidden=forbidden)
    note = f"score {result.score:.4f} (against raw labels {result.raw_score:.4f}), goal {goal}"
    if forbidden:
        note += f"; must not happen: {', '.join(forbidden[:5])}"
    return ThresholdReport(results=rows, note=note, weights=weights, goal=goal, forbidden=forbidden)


def check_pairs(rows: list[Row], path: Path) -> Report:
    """Prediction against gold, weighted by how often the pair occurs; the adjudicated verdict where there is one."""
    with preset("grader/default") as grader:
        verdicts = graded(grader, [(row["pred"], row["gold"]) for row in rows], title="pairs")
    results = []
    for index, (row, verdict) in enumerate(zip(rows, verdicts, strict=True)):
        truth = bool(row.get("true", row["mv"] if row["pub"] == "mixed" else row["pub"]))
        why = "" if verdict == truth else f"{row['pred']!r} vs {row['gold']!r}: ours {verdict}, label {truth}"
        allowed = "label: same rational number" if why and verdict and same_rational(row["pred"], row["gold"]) else None
        results.append(RowResult(id=str(row.get("id", index)), agree=not why, allowed=allowed, why=why))
    return report(results, goal=PAIRS_GOAL, weights=[float(row["n"]) for row in rows])


def graded(grader: MathGrader, pairs: Sequence[tuple[str, str]], *, title: str) -> list[bool]:
    """`accepts_many` in slices, under a progress bar; each pair is prediction and reference."""
    verdicts: list[bool] = []
    for start in tracked(range(0, len(pairs), 100), title=title):
        verdicts += grader.accepts_many(pairs[start : start + 100])
    return verdicts


_UNIT_LEFT_OUT = re.compile(r"(?<=[\d}])\s?(?:[a-zA-Z\u00c5]{1,4}(?:\^\{?-?\d\}?)?|\\(?:text|mathrm)\{[^{}]*\})$")
_SCIENTIFIC = re.compile(
    r"\s*(-?\d+(?:\.\d+)?)?(?:\s*(?:\\times|\\cdot)\s*|\s*)10\^\{?(-?\d{1,3})\}?\s*(?:\\[,;! ]|~|\s)*(.*)"
)


def same_rational(left: str, right: str) -> bool:
    r"""Whether two texts spell one rational number by `1e-5`, `10^{-5}`, `1 \times 10^{-5} \text{ m}` or a decimal.

    Read here once more, independently of the grader, to tell wrong labels from wrong verdicts: both published harnesses
    and math-verify read `3e8` as 8 + 3e. A unit on one side only is forgiven by `accepts`, which some labels do not.
    """
    first, second = (_rational(text) for text in (left, right))
    written = any(_SCIENTIFIC.fullmatch(text.strip()) or _UNIT_LEFT_OUT.search(text) for text in (left, right))
    return (written or "e" in left + right) and first is not None and first == second


def _rational(text: str) -> Fraction | None:
    if match := _SCIENTIFIC.fullmatch(text.strip()):
        unit = match[3]
        if unit and not unit.startswith(("\\text", "\\mathrm")) and not _UNIT_LEFT_OUT.search(text):
            return None
        return Fraction(match[1] or 1) * Fraction(10) ** int(match[2])
    try:
        return Fraction(_UNIT_LEFT_OUT.sub("", text.strip()))
    except (ValueError, ZeroDivisionError):
        return None


def check_outputs(rows: list[Row], path: Path) -> Report:
    """Response to verdict, end to end: extraction by task, then equivalence with the gold answer."""
    rows = [row for row in rows if row.get("adjudicated_verdict", row["published_verdict"]) is not None]
    answers = [answer_of(row) for row in rows]
    with preset("grader/default") as grader:
        pairs = [(answer or "", row["gold"]) for answer, row in zip(answers, rows, strict=True)]
        verdicts = graded(grader, pairs, title="outputs")
    results = []
    for row, answer, verdict in zip(rows, answers, verdicts, strict=True):
        truth = bool(row.get("adjudicated_verdict", row["published_verdict"]))
        ours = verdict if is_mathematics(row) else same_choice(answer, row["gold"])
        why = (
            "" if ours == truth else f"{row['task']}: read {answer!r}, gold {row['gold']!r}: ours {ours}, label {truth}"
        )
        allowed = None
        if why and ours and same_rational(answer or "", row["gold"]):
            allowed = "label: same rational number"
        elif why and row.get("prose_verdict") == ours:
            allowed = "label: the answer in prose is right, the published extractor took another"
        results.append(RowResult(id=row["id"], agree=not why, allowed=allowed, why=why))
    return report(results, goal=OUTPUTS_GOAL)


def is_mathematics(row: Row) -> bool:
    return not row["task"].startswith(("mmlu", "bbh"))


def answer_of(row: Row) -> str | None:
    """The answer a recorded response states, read the way its task asks for."""
    if row["task"].startswith("mmlu"):
        return choice_answer(row["response"], options=row["n_options"])
    if row["task"].startswith("bbh"):
        return short_answer(row["response"])
    return prose_answer(row["response"], max_chars=2000)


def same_choice(answer: str | None, gold: str) -> bool:
    """Equality of option letters and short phrases: case, brackets of a letter and spacing aside."""
    return answer is not None and _plain(answer) == _plain(gold)


def _plain(text: str) -> str:
    return re.sub(r"^\((\w)\)$", r"\1", " ".join(text.split())).casefold()


def check_grader(rows: list[Row], path: Path) -> Report:
    """Regression cases: unflagged maths rows, by `accepts`.

    Upstream cases, cases derived from benchmarks (`derivation`; a near miss that we accept fails the file), and cases
    from fault reports (`certainty`; those called arguable are left out, and one called sure that we get wrong fails the
    file). References of the last two are bare answers, whatever they look like.
    """
    rows = [row for row in rows if row["kind"] == "math" and not row.get("flags")]
    rows = [row for row in rows if row.get("certainty") != "arguable"]
    derived, reported = (any(name in row for row in rows) for name in ("derivation", "certainty"))
    reference = str if derived or reported else answer_in
    prediction = str if reported else answer_in
    with preset("grader/default") as grader:
        verdicts = graded(
            grader, [(prediction(row["prediction"]), reference(row["reference"])) for row in rows], title="grader"
        )
    results, forbidden = [], []
    for row, verdict in zip(rows, verdicts, strict=True):
        agree = verdict == row["expected"]
        why = f"{row['prediction'][-120:]!r} vs {row['reference'][-120:]!r}: ours {verdict}"
        results.append(RowResult(id=row["id"], agree=agree, why="" if agree else why))
        if not agree and ((derived and verdict) or row.get("certainty") == "sure"):
            forbidden.append(row["id"])
    goal = FIELD_GOAL if reported else DERIVED_GOAL if derived else CASES_GOAL
    return report(results, goal=goal, forbidden=forbidden)


_LEAD_IN = re.compile(r"\s*[A-Z][a-z]{3,}\b[^$]*(?:\$|\\\[|\\\()")
_SENTENCE = re.compile(r"(?:[a-zA-Z']{2,}[ ,:.]+){3,}")


def answer_in(text: str) -> str:
    """A recorded prediction or reference: an answer as it is, or the answer that a solution in prose states."""
    if "\\boxed" in text or _LEAD_IN.match(text) or _SENTENCE.search(re.sub(r"\\text\s?\{[^{}]*\}", "", text)):
        return prose_answer(text, max_chars=2000) or ""
    return text
