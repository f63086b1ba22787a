"""Questions to the algebra system: memory, cost gate, workers and counters behind one function.

This is the only way into the workers. A caller works out everything it has to know about a whole batch, asks once, and
goes on with the answers; nobody asks pair by pair.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable
from typing import Any

from rzero.grading.gate import Gate
from rzero.grading.workers import WorkerPool

Question = tuple[str, ...]  # a rule of `rzero.grading.symbolic.answer` and its texts

_POISONED = {"parse_left": 1, "parse_right": 2}  # stage a worker died in -> the text that killed it


class Algebra:
    """Answers batches of questions. What cannot be answered within the budget is None, and counted:

    * `cheap`: settled without algebra (counted by the callers); `symbolic`: answered by a worker;
    * `gated`: too expensive by the look of it; `killed`: over the budget; `errors`: the algebra raised.
    """

    def __init__(self, *, pool: WorkerPool, gate: Gate, remembered: int) -> None:
        self.pool = pool
        self.counters: Counter[str] = Counter(cheap=0, symbolic=0, gated=0, killed=0, errors=0)
        self._gate = gate
        self._answers = _Memory(remembered)
        self._poison = _Memory(remembered)  # texts whose parsing was killed: the answer is known without paying again

    def ask(self, questions: Iterable[Question]) -> dict[Question, Any]:
        """The answer to each distinct question; None where there is none."""
        answers: dict[Question, Any] = dict.fromkeys(questions)
        open_questions = [question for question in answers if not self._recall(question, answers)]
        replies = self.pool.run([list(question) for question in open_questions]) if open_questions else []
        for question, reply in zip(open_questions, replies, strict=True):
            answers[question] = self._answers[question] = self._read(question, reply)
        return answers

    def _recall(self, question: Question, answers: dict[Question, Any]) -> bool:
        """Whether no worker is needed: remembered, gated, or about a text known to kill its worker."""
        if question in self._answers:
            answers[question] = self._answers[question]
        elif any(self._gate.reason(text) for text in question[1:]):
            self.counters["gated"] += 1
        elif any(text in self._poison for text in question[1:]):
            self.counters["killed"] += 1
        else:
            return False
        return True

    def _read(self, question: Question, reply: dict[str, Any]) -> Any:
        self.counters["symbolic"] += question[0] != "unit"
        if "died" in reply:
            self.counters["killed"] += 1
            if reply.get("stage") in _POISONED:
                self._poison[question[_POISONED[reply["stage"]]]] = True
            return None
        self.counters["errors"] += bool(reply["error"])
        return reply["answer"]


class _Memory(OrderedDict[Any, Any]):
    """A dictionary that forgets what was stored longest ago. Answers are pure, so forgetting only costs time."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self._size = size

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(key, value)
        if len(self) > self._size:
            self.popitem(last=False)
