"""What the task definitions beside this file name: where documents come from, and how their responses are judged.

lm-eval calls these with nothing but a document, so what they need besides (a grader, a source of data) is set for the
duration of an evaluation: `with evaluating(source=..., judge=...) as judged: ...`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from evaluation.judging import Judge, Judged
from evaluation.sources import DocumentSource


@dataclass(slots=True, kw_only=True)
class _Evaluation:
    source: DocumentSource
    judge: Judge
    judged: dict[str, Judged] = field(default_factory=dict)


_CURRENT: ContextVar[_Evaluation] = ContextVar("evaluation")


@contextmanager
def evaluating(*, source: DocumentSource, judge: Judge) -> Iterator[dict[str, Judged]]:
    """Tasks are loaded and judged with these. Yields what was judged, by document id, as it comes in."""
    current = _Evaluation(source=source, judge=judge)
    token = _CURRENT.set(current)
    try:
        yield current.judged
    finally:
        _CURRENT.reset(token)


def _current() -> _Evaluation:
    try:
        return _CURRENT.get()
    except LookupError:
        raise RuntimeError(
            "these tasks run inside evaluation.harness.HarnessSuite (see experiments.evaluate)"
        ) from None


def documents(*, benchmark: str, kind: str, **_: Any) -> Mapping[str, Any]:
    """The data set of a task: its only split is `test`."""
    from datasets import Dataset  # slow to import

    return {"test": Dataset.from_list(_current().source.documents(benchmark, kind=kind))}


def keep_all(responses: Sequence[Sequence[str]], documents: Sequence[Any]) -> Sequence[Sequence[str]]:
    """The filter: lm-eval's own would drop all responses but the first."""
    return responses


def judge(document: Mapping[str, Any], responses: Sequence[Sequence[str]]) -> dict[str, float]:
    """`process_results`: shares over the responses of one document."""
    current = _current()
    judged = current.judged[document["id"]] = current.judge(document, responses[0])
    return judged.metrics()
