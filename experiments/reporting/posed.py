"""What the Challenger is shown, what it poses, and under which request answers are scored: the words for a result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hydra.utils import instantiate
from omegaconf import DictConfig

from rzero.boxes import last_boxed
from rzero.parsing import CLOSE, OPEN, PLACEHOLDER_ANSWERS
from rzero.prompts import Prompts
from rzero.types import LabelledQuestion

OUTSIDE = ("below_band", "above_band", "below_quantile", "above_quantile")
"""Reasons of questions whose agreement is not wanted."""
UNREADABLE = ("no_question", "no_answer")


@dataclass(frozen=True, slots=True, kw_only=True)
class Posed:
    """Shares in [0, 1] of an iteration's candidates.

    well_formed: that hold a question and an answer of the Challenger's own. distinct: of the well-formed, those that
    are different texts, case and white space apart. in_band: of all, those whose votes agree as much as is wanted,
    whether they were kept or dropped for another reason.
    """

    well_formed: float
    distinct: float
    in_band: float

    @classmethod
    def of(cls, questions: Sequence[LabelledQuestion]) -> Posed | None:
        """Those of these candidates; None without any."""
        if not questions:
            return None
        readable = [question for question in questions if question.drop_reason not in UNREADABLE]
        texts = {" ".join(question.question.casefold().split()) for question in readable}
        voted = [question for question in readable if question.vote and question.vote.label]
        return cls(
            well_formed=len(readable) / len(questions),
            distinct=len(texts) / len(readable) if readable else 0.0,
            in_band=sum(question.drop_reason not in OUTSIDE for question in voted) / len(questions),
        )


def worked_examples(prompts: Prompts) -> list[str]:
    """Return the questions that the Challenger's request shows with their answers."""
    request = prompts.challenger()
    found = []
    for piece in f"{request.system or ''}\n{request.user}".split(OPEN)[1:]:
        question, closed, after = piece.partition(CLOSE)
        answer = last_boxed(after)
        if closed and answer and answer not in PLACEHOLDER_ANSWERS:
            found.append(question.strip())
    return found


def prompts_of(config: DictConfig) -> Prompts | None:
    """Return the requests of a saved configuration; None where it has others than ours, or their files are gone."""
    node = config.get("prompts")
    if not isinstance(node, DictConfig) or node.get("_target_") != "rzero.prompts.Prompts":
        return None
    try:
        prompts: Prompts = instantiate(node)
    except FileNotFoundError:
        return None
    return prompts


def said(config: DictConfig) -> str:
    """Return a sentence about both requests; empty where they are not known."""
    if (prompts := prompts_of(config)) is None:
        return ""
    shown, solver = len(worked_examples(prompts)), prompts.solver("QUESTION")
    examples = {0: "no worked example", 1: "1 worked example"}.get(shown, f"{shown} worked examples")
    system = f"“{solver.system}” before it" if solver.system else "no system text"
    user = "the question alone" if solver.user == "QUESTION" else f"“{solver.user}”"
    return (
        f"The Challenger's prompt holds {examples}. Every model, the base too, was scored under the Solver's prompt: "
        f"{user}, {system}."
    )
