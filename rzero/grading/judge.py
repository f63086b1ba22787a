"""Symbolic verdicts on demand: memory, cost gate, workers and counters behind one function.

A rule (`same_answer`, `official_equal`) is a plain function of two texts that asks for symbolic verdicts through a
callback. `Judge.settle` runs it on a whole batch, notes which verdicts are missing, gets those from the workers in one
go and runs it again, until nothing is missing. So rules stay sequential and workers stay busy.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

from rzero.grading.gate import Gate
from rzero.grading.workers import WorkerPool

Pair = tuple[str, str]
Symbolic = Callable[[str, str], bool]
Rule = Callable[[str, str, Symbolic], bool]

_POISONED = {"parse_left": 0, "parse_right": 1}  # stage a worker died in -> the text that killed it


class Judge:
    """Settles batches of pairs under one rule. `algebra` names the comparison the workers make ("math" or "official").

    What cannot be decided within the budget is "not equivalent", and counted:

    * `cheap`: settled without algebra; `symbolic`: settled by a worker;
    * `gated`: too expensive by the look of it; `killed`: over the budget; `errors`: the algebra raised.
    """

    def __init__(self, *, rule: Rule, algebra: str, pool: WorkerPool, gate: Gate, remembered: int) -> None:
        self.pool = pool
        self.counters: Counter[str] = Counter(cheap=0, symbolic=0, gated=0, killed=0, errors=0)
        self._rule = rule
        self._algebra = algebra
        self._gate = gate
        self._verdicts = _Memory(remembered)
        self._poison = _Memory(remembered)  # texts whose parsing was killed: the verdict is known without paying again

    def settle(self, pairs: Sequence[Pair]) -> list[bool]:
        """The rule's verdict on each pair."""
        verdicts: dict[int, bool] = {}
        known: dict[Pair, bool] = {}
        unsettled, first_round = list(range(len(pairs))), True
        while unsettled:
            missing: dict[Pair, None] = {}
            waiting = [index for index in unsettled if not self._attempt(index, pairs[index], verdicts, known, missing)]
            if first_round:
                self.counters["cheap"] += len(unsettled) - len(waiting)
                first_round = False
            self._ask_workers(list(missing), known)
            unsettled = waiting
        return [verdicts[index] for index in range(len(pairs))]

    def _attempt(
        self, index: int, pair: Pair, verdicts: dict[int, bool], known: dict[Pair, bool], missing: dict[Pair, None]
    ) -> bool:
        """Settle one pair with what is known; False, with the missing verdicts noted, if that is not enough."""
        incomplete = False

        def symbolic(left: str, right: str) -> bool:
            nonlocal incomplete
            question = (left, right) if left <= right else (right, left)
            if question not in known:
                verdict = self._recall(question)
                if verdict is None:
                    missing[question] = None
                    incomplete = True
                    return False
                known[question] = verdict
            return known[question]

        left, right = pair
        if max(len(left), len(right)) > self._gate.max_chars:
            self.counters["gated"] += left != right
            verdicts[index] = left == right and bool(left.strip())
            return True
        verdict = self._rule(left, right, symbolic)
        if incomplete:
            return False
        verdicts[index] = verdict
        return True

    def _recall(self, question: Pair) -> bool | None:
        """A verdict that needs no worker: remembered, gated, or about a text known to kill its worker."""
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
        replies = self.pool.run([{"rule": self._algebra, "left": left, "right": right} for left, right in questions])
        for question, reply in zip(questions, replies, strict=True):
            known[question] = self._verdicts[question] = self._read(question, reply)

    def _read(self, question: Pair, reply: dict[str, Any]) -> bool:
        self.counters["symbolic"] += 1
        if "died" in reply:
            self.counters["killed"] += 1
            if reply.get("stage") in _POISONED:
                self._poison[question[_POISONED[reply["stage"]]]] = False
            return False
        self.counters["errors"] += bool(reply["error"])
        return bool(reply["equal"])


class _Memory(OrderedDict[Any, bool]):
    """A dictionary that forgets what was stored longest ago. Verdicts are pure, so forgetting only costs time."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self._size = size

    def __setitem__(self, key: Any, value: bool) -> None:
        super().__setitem__(key, value)
        if len(self) > self._size:
            self.popitem(last=False)
