"""The common part of graders that use algebra: its budget, its counters and its end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

from rzero.grading import acceptance
from rzero.grading.algebra import Algebra
from rzero.grading.gate import Gate
from rzero.grading.workers import Limits, WorkerPool


class Budgeted:
    """Owns the workers. They are started on first need; `close()` (or leaving the context) ends them.

    Verdicts are pure functions of the texts: they do not depend on earlier calls, on the number of workers or on the
    load of the machine, because the budget of a question is CPU time. Safe to call from threads. Counters: `Algebra`.
    """

    def __init__(
        self,
        *,
        workers: int,
        parse_cpu_seconds: float,
        compare_cpu_seconds: float,
        memory_mb: int,
        wall_seconds: float,
        requests_per_server: int,
        max_chars: int,
        max_depth: int,
        max_digits: int,
        max_exponent: int,
        max_tower: int,
        max_factorial: int,
        max_commands: int,
        remembered: int,
    ) -> None:
        limits = Limits(
            parse_cpu_seconds=parse_cpu_seconds,
            compare_cpu_seconds=compare_cpu_seconds,
            memory_mb=memory_mb,
            wall_seconds=wall_seconds,
            requests_per_server=requests_per_server,
        )
        gate = Gate(
            max_chars=max_chars,
            max_depth=max_depth,
            max_digits=max_digits,
            max_exponent=max_exponent,
            max_tower=max_tower,
            max_factorial=max_factorial,
            max_commands=max_commands,
        )
        self.pool = WorkerPool(workers=workers, limits=limits)
        self.max_chars = max_chars
        self.algebra = Algebra(pool=self.pool, gate=gate, remembered=remembered)

    def settled(self, claims: Sequence[acceptance.Claim], *, rule: str) -> list[bool]:
        """Whether each claim holds, its pairs compared by one rule of the algebra, all of them in one go."""
        asked = {pair: (rule, pair.left, pair.right) for claim in claims for pair in acceptance.pairs(claim)}
        self.counters["cheap"] += sum(isinstance(claim, bool) for claim in claims)
        answers = self.algebra.ask(asked.values())
        verdicts = {pair: bool(answers[question]) for pair, question in asked.items()}
        return [acceptance.holds(claim, verdicts) for claim in claims]

    @property
    def counters(self) -> Counter[str]:
        """How verdicts came about: cheap, symbolic, gated, killed, errors."""
        return self.algebra.counters

    @property
    def metrics(self) -> Mapping[str, float]:
        """The counters as `grader/name`, ready for a tracker."""
        return {f"grader/{name}": float(count) for name, count in self.counters.items()}

    def close(self) -> None:
        self.pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
