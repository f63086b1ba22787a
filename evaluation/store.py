"""What an evaluation has already done, on disk, so that nothing is generated or judged twice.

    <folder>/<weights>/<task>-<signature>/responses_00000.json      one engine call's completions
    <folder>/<weights>/<task>-<signature>/score_<judging>.json      the task's score

`weights`, `signature` and `judging` are hashes: of the model, of everything that decides what is asked and how answers
are drawn, and of everything that decides what is right. A file that is there is complete (atomic writes), so an
evaluation that was killed goes on behind its last complete engine call, and a changed protocol, prompt, data set or
grader never meets old numbers.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import rzero.grading
from evaluation import judging, phrases, reading, reasoning
from rzero.durable import write_atomically
from rzero.escaping import json_line
from rzero.interfaces import RolloutEngine
from rzero.types import Prompt, Sampling

HASH_CHARS = 16
# Temperature 1 from a fixed seed: any change of the weights shows in the log-probs, and sooner or later in the tokens.
_PROBE = Sampling(n=2, temperature=1.0, max_tokens=24, seed=0)
_PROBE_PROMPTS = (Prompt(user="Compute 17 + 25."), Prompt(user="Which is larger, 3 or 5?"))


def digest(value: Any) -> str:
    """A short hash of plain data."""
    return hashlib.sha256(json_line(value).encode()).hexdigest()[:HASH_CHARS]


def fingerprint(engine: RolloutEngine) -> str:
    """A hash of the weights behind an engine, by what they do: sampled tokens and their log-probs on two probes.

    For callers that do not know the weights themselves. Equal weights on one machine give equal hashes; where an engine
    is not deterministic the hash differs, and the evaluation is made again instead of being mixed up.
    """
    groups = engine.generate(_PROBE_PROMPTS, _PROBE)
    return digest([[c.token_ids, [repr(p) for p in c.logprobs]] for group in groups for c in group.completions])


def code_hash() -> str:
    """A hash of the code that reads and compares answers: other rules, other verdicts."""
    root = Path(inspect.getfile(rzero.grading)).parent
    modules: Sequence[ModuleType] = (judging, phrases, reading, reasoning)
    paths = [*sorted(root.glob("*.py")), *(Path(inspect.getfile(module)) for module in modules)]
    return digest([hashlib.sha256(path.read_bytes()).hexdigest() for path in paths])


class TaskStore:
    """The files of one task under one protocol and one set of weights. `folder=None` keeps nothing."""

    def __init__(self, folder: Path | None, *, weights: str, task: str, signature: str) -> None:
        self.folder = None if folder is None else folder / weights[:HASH_CHARS] / f"{task}-{signature}"

    def responses(self, chunk: int) -> list[list[str]] | None:
        """The texts of an engine call, [prompt][sample], or None when it has not been made."""
        data = self._read(f"responses_{chunk:05d}.json")
        return None if data is None else data["texts"]

    def keep_responses(self, chunk: int, texts: Sequence[Sequence[str]], *, truncated: int) -> None:
        """`truncated`: how many of the completions ran into the token limit."""
        self._write(f"responses_{chunk:05d}.json", {"truncated": truncated, "texts": texts})

    def score(self, judging: str) -> Mapping[str, Any] | None:
        return self._read(f"score_{judging}.json")

    def keep_score(self, judging: str, data: Mapping[str, Any]) -> None:
        self._write(f"score_{judging}.json", data)

    def truncated(self) -> int:
        """Completions that ran into the token limit, of all engine calls kept."""
        if self.folder is None:
            return 0
        return sum(json.loads(path.read_bytes())["truncated"] for path in self.folder.glob("responses_*.json"))

    def _read(self, name: str) -> Any:
        if self.folder is None or not (path := self.folder / name).is_file():
            return None
        return json.loads(path.read_bytes())

    def _write(self, name: str, data: Mapping[str, Any]) -> None:
        if self.folder is not None:
            write_atomically(self.folder / name, json_line(data).encode())
