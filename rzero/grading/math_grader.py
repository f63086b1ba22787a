"""Graders that end in killable processes: ours (`MathGrader`) and the authors' (`OfficialGrader`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

from rzero.grading.comparison import same_answer
from rzero.grading.extraction import last_boxed, last_boxed_official
from rzero.grading.gate import Gate
from rzero.grading.judge import Judge, Pair, Symbolic
from rzero.grading.official_equality import official_equal
from rzero.grading.workers import Limits, WorkerPool


class MathGrader:
    """Decides whether two answers denote the same mathematical object (`Grader`).

    Spelling, exact numbers and structure first, math-verify in a killable process last. Verdicts are symmetric, pure
    functions of the two texts: they do not depend on earlier calls, on the number of workers or on the load of the
    machine, because the budget of a comparison is CPU time. Counters: see `Judge`.

    Processes are started on first need; `close()` (or leaving the context) ends them. Safe to call from threads.
    """

    algebra = "math"

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
        self._max_chars = max_chars
        self._judge = Judge(rule=self._same, algebra=self.algebra, pool=self.pool, gate=gate, remembered=remembered)

    @staticmethod
    def _same(left: str, right: str, symbolic: Symbolic) -> bool:
        return same_answer(left, right, symbolic)

    def extract(self, response: str) -> str | None:
        """Content of the last box of a response; None if there is none."""
        return last_boxed(response, max_chars=self._max_chars)

    def equivalent(self, left: str, right: str) -> bool:
        return self.equivalent_many([(left, right)])[0]

    def equivalent_many(self, pairs: Sequence[Pair]) -> list[bool]:
        """`equivalent` for each pair, with the symbolic comparisons spread over the workers."""
        return self._judge.settle(pairs)

    @property
    def counters(self) -> Counter[str]:
        """How verdicts came about: cheap, symbolic, gated, killed, errors."""
        return self._judge.counters

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


class OfficialGrader(MathGrader):
    """The authors' grader (`mathruler` 0.1.0) for the preset `official`: same equality, same extraction, made safe.

    `equivalent(given, truth)` is not symmetric, and no relation at all in places (docs/authors_code.md, R15). `extract`
    gives "" for an empty box and None where the authors write the literal "None".
    """

    algebra = "official"

    @staticmethod
    def _same(left: str, right: str, symbolic: Symbolic) -> bool:
        return official_equal(left, right, symbolic)

    def extract(self, response: str) -> str | None:
        return last_boxed_official(response)
