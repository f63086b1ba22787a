"""Files of an evaluation that keep what was generated and judged, so that nothing is done twice.

    <folder>/<weights>/<task>-<decoding>-<signature>/responses_00000.json      one engine call's completions
    <folder>/<weights>/<task>-<signature>/score_<judging>.json                 the task's score

`weights`, `signature` and `judging` are hashes: of the model's weights, of everything else that decides a response
(tokenizer, rendered prompt, engine and its dtype, documents, decoding, version of the task), and of everything that
decides what is right. A file that is there is complete (atomic writes), so an
evaluation that was killed goes on behind its last complete engine call, and a changed protocol, prompt, data set or
grader never meets old numbers.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType

import rzero.grading
from evaluation import judging, phrases, reading, reasoning
from rzero.durable import write_atomically
from rzero.escaping import json_line
from rzero.types import Json

HASH_CHARS = 16


def digest(value: object) -> str:
    """A short hash of plain data."""
    return hashlib.sha256(json_line(value).encode()).hexdigest()[:HASH_CHARS]


def code_hash() -> str:
    """A hash of the code that reads and compares answers: other rules, other verdicts."""
    root = Path(inspect.getfile(rzero.grading)).parent
    modules: Sequence[ModuleType] = (judging, phrases, reading, reasoning)
    paths = [*sorted(root.glob("*.py")), *(Path(inspect.getfile(module)) for module in modules)]
    return digest([hashlib.sha256(path.read_bytes()).hexdigest() for path in paths])


@dataclass(frozen=True, slots=True, kw_only=True)
class Responses:
    """The texts of one engine call, [prompt][sample], and which of them ran into the token limit."""

    texts: list[list[str]]
    truncated: list[list[bool]]


class TaskStore:
    """The files of one task under one protocol and one set of weights. `folder=None` keeps nothing."""

    def __init__(self, folder: Path | None, *, weights: str, task: str, signature: str) -> None:
        self.folder = None if folder is None else folder / weights[:HASH_CHARS] / f"{task}-{signature}"

    def responses(self, call: int) -> Responses | None:
        """The responses of an engine call; None when it has not been made, or only counted what ran into the limit."""
        data = self._read(f"responses_{call:05d}.json")
        return None if data is None or isinstance(data["truncated"], int) else Responses(**data)

    def keep_responses(self, call: int, responses: Responses) -> None:
        self._write(f"responses_{call:05d}.json", asdict(responses))

    def score(self, judging: str) -> Json | None:
        """The data given to `keep_score` for the same `judging`; None without."""
        return self._read(f"score_{judging}.json")

    def keep_score(self, judging: str, data: Json) -> None:
        self._write(f"score_{judging}.json", data)

    def _read(self, name: str) -> Json | None:
        if self.folder is None or not (path := self.folder / name).is_file():
            return None
        data: Json = json.loads(path.read_bytes())
        return data

    def _write(self, name: str, data: Json) -> None:
        if self.folder is not None:
            write_atomically(self.folder / name, json_line(data).encode())
