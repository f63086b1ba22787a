"""How fast answers are compared: in votes and against references, by their values alone and when each needs algebra.

All figures are answers per CPU second of one core, workers included, so that they do not depend on what else runs; the
ratios are what was asked of them (`CHEAP_FLOOR`, `HARD_FLOOR`).
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from typing import Any

from hydra.utils import instantiate
from omegaconf import OmegaConf

from experiments.conformance.hostile import cpu_seconds
from experiments.conformance.presets import CONF, preset
from rzero.grading import MathGrader
from rzero.types import Json

VOTES = 10  # answers per question
CHEAP_QUESTIONS, HARD_QUESTIONS = 2000, 60
CHEAP_FLOOR, HARD_FLOOR = 20_000, 300  # answers per second
# What Solvers answer, most often first: whole numbers, fractions, decimals, units, tuples, words.
CHEAP_FORMS = ("{a}", "{a}", "{a}", "\\frac{{{a}}}{{{b}}}", "{a}.5", "{a} \\text{{ cm}}", "({a}, {b})", "\\text{{no}}")
HARD_FORMS = ("{a}\\sqrt{{{b}}}", "\\frac{{{a}\\sqrt{{{b}}}}}{{{c}}}", "{a}x^2+{b}x", "\\frac{{{a}\\pi}}{{{b}}}")


def bench_votes() -> Json:
    """Keys: {votes, accepts}_{cheap, hard}_per_s in answers per CPU second, the ratios to what was asked (1 is enough),
    and the counters of `accepts`. A vote compares the answers to one question, `accepts` each answer with the first.
    """
    generator = random.Random(0)
    cheap = [_answers(generator, CHEAP_FORMS) for _ in range(CHEAP_QUESTIONS)]
    hard = [_answers(generator, HARD_FORMS) for _ in range(HARD_QUESTIONS)]
    with one_worker() as grader:
        grader.accepts("x+x", "2x")  # starts the workers
        vote = preset("vote/paper", grader=grader).vote_many
        rates = {"votes_cheap": rate(grader, vote, cheap), "votes_hard": rate(grader, vote, hard)}
    with one_worker() as grader:
        grader.accepts("x+x", "2x")

        def accept(batch: Sequence[Sequence[str]]) -> list[bool]:
            rows = [[grader.extract(response) or "" for response in responses] for responses in batch]
            return grader.accepts_many([(answer, row[0]) for row in rows for answer in row])

        rates |= {"accepts_cheap": rate(grader, accept, cheap), "accepts_hard": rate(grader, accept, hard)}
        return {
            **{f"{name}_per_s": value for name, value in rates.items()},
            **{
                f"{name}_ratio": value / (CHEAP_FLOOR if name.endswith("cheap") else HARD_FLOOR)
                for name, value in rates.items()
            },
            "accepts_symbolic": grader.counters["symbolic"],
            "accepts_killed": grader.counters["killed"],
        }


def one_worker() -> MathGrader:
    """The default grader with a single worker: what one core does."""
    settings = OmegaConf.load(CONF / "grader" / "default.yaml")
    return instantiate(settings, workers=1)


def _answers(generator: random.Random, forms: Sequence[str]) -> list[str]:
    """One question's answers: one right answer that most give, and a few others, as `\\boxed{}` responses."""
    form = generator.choice(forms)

    def one() -> str:
        numbers = {name: generator.randint(2, 97) for name in "abc"}
        return f"So the answer is $\\boxed{{{form.format(**numbers)}}}$."

    right = one()
    return [right if generator.random() < 0.6 else one() for _ in range(VOTES)]


def rate(
    grader: MathGrader, compare: Callable[[Sequence[Sequence[str]]], Any], batch: Sequence[Sequence[str]]
) -> float:
    """Answers per CPU second of `compare` over a batch of questions."""
    started = time.process_time() + cpu_seconds(grader.pool.pids)
    compare(batch)
    used = time.process_time() + cpu_seconds(grader.pool.pids) - started
    return sum(len(answers) for answers in batch) / used
