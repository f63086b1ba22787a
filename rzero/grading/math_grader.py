"""The grader of this repository: boxes, exact numbers and spelling first, math-verify in killable processes last."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

from rzero.grading.comparison import same_answer
from rzero.grading.extraction import last_boxed
from rzero.grading.gate import Gate
from rzero.grading.workers import Limits, WorkerPool

Pair = tuple[str, str]


class MathGrader:
    """Decides whether two answers denote the same mathematical object (`Grader`).

    Verdicts are symmetric, pure functions of the two texts: they do not depend on earlier calls, on the number of
    workers or on the load of the machine, because the budget of a comparison is CPU time. What cannot be decided within
    the budget is "not equivalent", and counted:

    * `cheap`: decided by spelling or as numbers; `symbolic`: decided by math-verify;
    * `gated`: too expensive by the look of it; `killed`: over the budget of CPU or memory; `errors`: math-verify raised.

    Processes are started on first need; `close()` (or leaving the context) ends them.
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
        for name, value in {"cpu_seconds": min(parse_cpu_seconds, compare_cpu_seconds), "memory_mb": memory_mb}.items():
            if value <= 0:
                raise ValueError(f"grader.{name} must be positive, got {value}")
        limits = Limits(
            parse_cpu_seconds=parse_cpu_seconds,
            compare_cpu_seconds=compare_cpu_seconds,
            memory_mb=memory_mb,
            wall_seconds=wall_seconds,
            requests_per_server=requests_per_server,
        )
        self.pool = WorkerPool(workers=workers, limits=limits)
        self._max_chars = max_chars
        self._gate = Gate(
            max_chars=max_chars,
            max_depth=max_depth,
            max_digits=max_digits,
            max_exponent=max_exponent,
            max_tower=max_tower,
            max_factorial=max_factorial,
            max_commands=max_commands,
        )
        self._verdicts = _Memory(remembered)
        self._poison = _Memory(remembered)  # texts whose parsing was killed: the verdict is known without paying again
        self.counters: Counter[str] = Counter(cheap=0, symbolic=0, gated=0, killed=0, errors=0)

    def extract(self, response: str) -> str | None:
        """Content of the last box of a response; None if there is none."""
        return last_boxed(response, max_chars=self._max_chars)

    def equivalent(self, left: str, right: str) -> bool:
        return self.equivalent_many([(left, right)])[0]

    def equivalent_many(self, pairs: Sequence[Pair]) -> list[bool]:
        """`equivalent` for each pair, with the symbolic comparisons spread over the workers."""
        verdicts: dict[int, bool] = {}
        known: dict[Pair, bool] = {}
        unsettled = list(range(len(pairs)))
        asked_any: set[int] = set()
        while unsettled:
            needed: dict[Pair, None] = {}
            waiting = []
            for index in unsettled:
                missing = self._attempt(index, pairs[index], verdicts, known, asked_any)
                if missing:
                    waiting.append(index)
                    needed.update(dict.fromkeys(missing))
            self._ask_workers(list(needed), known)
            unsettled = waiting
        self.counters["cheap"] += len(pairs) - len(asked_any)
        return [verdicts[index] for index in range(len(pairs))]

    def _attempt(
        self, index: int, pair: Pair, verdicts: dict[int, bool], known: dict[Pair, bool], asked_any: set[int]
    ) -> list[Pair]:
        """Try to settle one pair with what is known; returns the symbolic verdicts that are missing."""
        left, right = pair
        if left == right:
            verdicts[index] = bool(left.strip())
            return []
        if max(len(left), len(right)) > self._max_chars:
            self.counters["gated"] += 1
            asked_any.add(index)
            verdicts[index] = False
            return []
        missing: list[Pair] = []

        def symbolic(first: str, second: str) -> bool:
            asked_any.add(index)
            question = (first, second) if first <= second else (second, first)
            if question in known:
                return known[question]
            verdict = self._recall(question)
            if verdict is None:
                missing.append(question)
                return False
            known[question] = verdict
            return verdict

        verdict = same_answer(left, right, symbolic)
        if not missing:
            verdicts[index] = verdict
        return missing

    def _recall(self, question: Pair) -> bool | None:
        """A verdict that needs no worker: remembered, gated, or about a text known to be unparseable."""
        if question in self._verdicts:
            return self._verdicts[question]
        if any(self._gate.reason(text) for text in question):
            self.counters["gated"] += 1
            return False
        if any(text in self._poison for text in question):
            self.counters["killed"] += 1
            return False
        return None

    def _ask_workers(self, questions: list[Pair], known: dict[Pair, bool]) -> None:
        if not questions:
            return
        replies = self.pool.run([{"left": left, "right": right} for left, right in questions])
        for question, reply in zip(questions, replies, strict=True):
            self.counters["symbolic"] += 1
            if "died" in reply:
                self.counters["killed"] += 1
                if reply.get("stage") in ("parse_left", "parse_right"):
                    self._poison[question[reply["stage"] == "parse_right"]] = False
            elif reply["error"]:
                self.counters["errors"] += 1
            known[question] = self._verdicts[question] = bool(reply.get("equal", False))

    @property
    def metrics(self) -> Mapping[str, float]:
        """Counters as `grader/name`, ready for a tracker."""
        return {f"grader/{name}": float(count) for name, count in self.counters.items()}

    def close(self) -> None:
        self.pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Memory(OrderedDict):  # type: ignore[type-arg]
    """A dictionary that forgets what was stored longest ago. Verdicts are pure, so forgetting only costs time."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self._size = size

    def __setitem__(self, key: object, value: bool) -> None:
        super().__setitem__(key, value)
        if len(self) > self._size:
            self.popitem(last=False)
