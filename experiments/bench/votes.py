"""How fast answers are compared in votes: through spelling and numbers alone, and when each one needs algebra.

Both figures are answers per CPU second of one core, workers included, so that they do not depend on what else runs.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from typing import Any

from hydra.utils import instantiate
from omegaconf import OmegaConf

from experiments.conformance.hostile import cpu_seconds
from experiments.conformance.presets import CONF, preset
from rzero.grading import MathGrader

VOTES = 10  # answers per question
CHEAP_QUESTIONS, HARD_QUESTIONS = 2000, 60
# What Solvers answer, most often first: whole numbers, fractions, decimals, units, tuples, words.
CHEAP_FORMS = ("{a}", "{a}", "{a}", "\\frac{{{a}}}{{{b}}}", "{a}.5", "{a} \\text{{ cm}}", "({a}, {b})", "\\text{{no}}")
HARD_FORMS = ("{a}\\sqrt{{{b}}}", "\\frac{{{a}\\sqrt{{{b}}}}}{{{c}}}", "{a}x^2+{b}x", "\\frac{{{a}\\pi}}{{{b}}}")


def bench_votes() -> dict[str, Any]:
    """Keys: votes_cheap_per_s, votes_hard_per_s (answers per CPU second), and the counters of the hard run."""
    generator = random.Random(0)
    cheap = [_answers(generator, CHEAP_FORMS) for _ in range(CHEAP_QUESTIONS)]
    hard = [_answers(generator, HARD_FORMS) for _ in range(HARD_QUESTIONS)]
    with one_worker() as grader:
        grader.accepts("x+x", "2x")  # starts the workers
        cheap_rate = rate(grader, cheap)
        hard_rate = rate(grader, hard)
        return {
            "votes_cheap_per_s": cheap_rate,
            "votes_hard_per_s": hard_rate,
            "votes_symbolic": grader.counters["symbolic"],
            "votes_killed": grader.counters["killed"],
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


def rate(grader: MathGrader, batch: Sequence[Sequence[str]]) -> float:
    """Answers per CPU second of the paper's vote over a batch of questions."""
    vote = preset("vote/paper", grader=grader)
    started = time.process_time() + cpu_seconds(grader.pool.pids)
    vote.vote_many(batch)
    used = time.process_time() + cpu_seconds(grader.pool.pids) - started
    return sum(len(answers) for answers in batch) / used
