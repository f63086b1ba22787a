"""The questions of an iteration as a stage of a run: banked, measured, and looked at for signs of collapse."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from rzero.collapse import RollBack
from rzero.interfaces import QuestionAudit, QuestionBank
from rzero.runs.stages import Stages
from rzero.types import LabelledQuestion


class NothingKept(RuntimeError):
    """No question of an iteration survived the curriculum: there is nothing for the Solver to learn from."""


def keep(
    labelled: Sequence[LabelledQuestion],
    *,
    stages: Stages,
    bank: QuestionBank,
    audit: QuestionAudit,
    seen: Mapping[str, float],
    made_of: tuple[str, ...],
    needed: int,
) -> str:
    """Banks and measures an iteration's candidates; returns a summary.

    seen: more metrics of them (`rzero.signals`). needed: questions of one Solver step. Where the monitor rolls back at
    a sign, no Solver learns from these questions (`Stages.rolled_back`).

    Raises NothingKept when none was kept, Collapsed when the monitor was told to stop at its signs.
    """
    stages.ranks.shared(bank.put)(stages.iteration, labelled)
    metrics = curriculum_metrics(labelled)
    audited = stages.ranks.shared(audit)(labelled)
    judged = stages.collapse.judge({**metrics, **seen})
    stages.log({**metrics, **audited, **seen, **judged, **stages.health.look()})
    stages.tracker.questions(labelled, step=stages.ledger.step)
    stages.made("questions", made_of=made_of)
    stages.advance("chosen")
    kept = [question for question in labelled if question.kept]
    if not kept:
        raise NothingKept(_explain_nothing_kept(stages.iteration, labelled))
    stages.collapse.begin()
    duplicates = 1 - metrics["curriculum/distinct_kept"] / len(kept)
    try:
        row = {**metrics, **seen, **judged, "curriculum/duplicate_share": duplicates}
        stages.collapse.look(row, say=stages.narrator.say)
    except RollBack as sign:
        stages.roll_back(str(sign))
    if len(kept) < needed:
        stages.warn(
            f"only {len(kept)} questions kept, fewer than solver.prompts_per_step ({needed}); "
            "each step sees some of them more than once"
        )
    return f"kept {len(kept)} of {len(labelled)}"


def curriculum_metrics(labelled: Sequence[LabelledQuestion]) -> dict[str, float]:
    """Returns how many candidates were kept, and how many were dropped for which reason."""
    kept = [question for question in labelled if question.kept]
    reasons = Counter(question.drop_reason for question in labelled if question.drop_reason)
    voted = [question.vote.agreement for question in labelled if question.vote]
    return {
        "curriculum/candidates": float(len(labelled)),
        "curriculum/kept": float(len(kept)),
        "curriculum/kept_fraction": len(kept) / len(labelled),
        "curriculum/distinct_kept": float(len({question.question for question in kept})),
        "curriculum/agreement": sum(voted) / len(voted) if voted else 0.0,
        **{f"curriculum/dropped/{reason}": float(count) for reason, count in sorted(reasons.items())},
    }


def _explain_nothing_kept(iteration: int, labelled: Sequence[LabelledQuestion]) -> str:
    reasons = Counter(question.drop_reason for question in labelled)
    listing = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
    return (
        f"iteration {iteration}: none of {len(labelled)} candidate questions was kept ({listing}). "
        "Widen the band (curriculum.rule), sample more candidates (curriculum.candidates), or train the Challenger "
        "for more steps (challenger.settings.steps), and start a new run."
    )
