"""Sources of benchmark questions: the hub at a pinned revision, a local folder, or a generator.

A local folder holds one JSON-lines file per benchmark (`math500.jsonl`), each row with `id`, `problem`, `answer` and,
where the benchmark has them, `alt_answers` (each right as well), `options` (a list), `level`. `<name>_mini.jsonl` and
`<name>_sample.jsonl` are taken where the whole benchmark is not there, and the benchmark is then named so in the log.
Nothing is ever copied into the repository.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from evaluation import reasoning
from evaluation.problems import Benchmark, BenchmarkSource
from rzero.types import Json

Row = Json
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
OPTION_REQUEST = "Only one option is right. Put its letter, and nothing else, into the box, for example \\boxed{A}."


class DataNotFoundError(ValueError):
    """A benchmark is neither in the local folder nor reachable on the hub."""


class DocumentSource(Protocol):
    """Gives the documents (see `evaluation.judging`) of a benchmark by name."""

    def documents(self, benchmark: str, *, kind: str) -> list[Row]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class HubDataset:
    """A data set on the hub and the names of its columns. `revision` is a commit: a branch can change under a result.

    answer_after: what precedes the answer in its column (GSM8K: "####"); "" where the column holds the answer alone.
    """

    path: str
    split: str
    revision: str
    name: str | None = None
    question: str = "problem"
    answer: str = "answer"
    options: str | None = None
    level: str | None = None
    answer_after: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Datasets:
    """The benchmarks of the paper. With `data_dir` the folder is used and the hub is never asked."""

    hub: Mapping[str, Json]
    data_dir: str | None = None
    limit: int | None = None
    """First rows of each benchmark only; None for all."""
    rows: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Rows of a benchmark by its name, from the first to the one before the second; all where it is not named."""

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"benchmarks.source.limit must be at least 1 or null, got {self.limit}")
        if wrong := {name: rows for name, rows in self.rows.items() if len(rows) != 2 or not 0 <= rows[0] < rows[1]}:
            raise ValueError(f"benchmarks.source.rows must be [first, one behind the last], got {wrong}")

    def documents(self, benchmark: str, *, kind: str) -> list[Row]:
        """Raises DataNotFoundError saying what to do when the benchmark is in neither place."""
        if self.data_dir is not None:
            rows = read_folder(Path(self.data_dir), benchmark)
        else:
            rows = read_hub(HubDataset(**self._dataset(benchmark)), benchmark)
        first, end = self.rows.get(benchmark, (0, len(rows)))
        if end > len(rows):
            raise ValueError(f"{benchmark} has {len(rows)} rows, benchmarks.source.rows asks for {first} to {end}")
        return [to_document(row, kind=kind) for row in rows[first:end][: self.limit]]

    def _dataset(self, benchmark: str) -> Json:
        if benchmark not in self.hub:
            raise ValueError(f"no data set is named for benchmark {benchmark!r}; known: {', '.join(sorted(self.hub))}")
        return self.hub[benchmark]


@dataclass(frozen=True, slots=True, kw_only=True)
class Generated:
    """Questions made on this machine: a source of `Benchmark`s (the micro world)."""

    source: Sequence[Benchmark] | BenchmarkSource

    def documents(self, benchmark: str, *, kind: str) -> list[Row]:
        made = self.source() if callable(self.source) else self.source
        for candidate in made:
            if candidate.name == benchmark:
                return [
                    document(id=item.id, question=item.question, answers=[item.answer], kind=kind, level=item.level)
                    for item in candidate.items
                ]
        raise ValueError(f"nothing generates benchmark {benchmark!r}; there is {', '.join(b.name for b in made)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasoningGym:
    """Families of reasoning-gym: benchmark `gym_<family>` is `size` questions with the family's `knobs`."""

    size: int
    seed: int
    families: Mapping[str, Json] = field(default_factory=dict)

    def documents(self, benchmark: str, *, kind: str) -> list[Row]:
        family = benchmark.removeprefix("gym_")
        if family not in self.families:
            raise ValueError(f"no settings for {benchmark!r}; configured: {', '.join(sorted(self.families))}")
        spec = reasoning.FamilySpec(family=family, size=self.size, seed=self.seed, knobs=self.families[family])
        return [
            document(
                id=f"{family}-{index}",
                question=entry["question"],
                answers=[str(entry["answer"])],
                kind=kind,
                entry=json.dumps(entry, sort_keys=True, default=str),
            )
            for index, entry in enumerate(reasoning.generate(spec))
        ]


def document(
    *, id: str, question: str, answers: Sequence[str], kind: str, options: int = 0, level: int = 0, entry: str = ""
) -> Row:
    return {
        "id": id,
        "question": question,
        "answer": answers[0],
        "answers": list(answers),
        "kind": kind,
        "options": options,
        "level": level,
        "entry": entry,
    }


def to_document(row: Row, *, kind: str) -> Row:
    """A row of a local folder as a document. Options are listed below the question under their letters."""
    question, options = str(row["problem"]), row.get("options") or []
    if kind == "option":
        listing = "\n".join(f"({letter}) {option}" for letter, option in zip(LETTERS, options, strict=False))
        question = f"{question}\n\n{listing}\n\n{OPTION_REQUEST}"
    answers = dict.fromkeys([str(row["answer"]), *map(str, row.get("alt_answers") or [])])
    return document(
        id=str(row["id"]),
        question=question,
        answers=list(answers),
        kind=kind,
        options=len(options),
        level=_level(row.get("level")),
    )


def _level(value: object) -> int:
    """A level is a whole number; `Level 3` is 3, anything else 0."""
    text = str(value or 0).removeprefix("Level ").strip()
    return int(text) if text.isdecimal() else 0


def read_folder(folder: Path, benchmark: str) -> list[Row]:
    """The rows of `<folder>/<benchmark>.jsonl`, or of its `_mini` or `_sample` file."""
    candidates = [folder / f"{benchmark}{suffix}.jsonl" for suffix in ("", "_mini", "_sample")]
    path = next((path for path in candidates if path.is_file()), None)
    if path is None:
        there = ", ".join(sorted(found.name for found in folder.glob("*.jsonl"))) or "no .jsonl file"
        raise DataNotFoundError(
            f"benchmark {benchmark}: {folder} has no {candidates[0].name} (there is {there}). Put it there, leave this "
            "benchmark out (benchmarks.tasks), or take it from the hub (benchmarks.source.data_dir=null)"
        )
    return list(_json_lines(path))


def _json_lines(path: Path) -> Iterable[Row]:
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if line.strip():
            row = json.loads(line)
            if missing := {"id", "problem", "answer"} - row.keys():
                raise ValueError(f"{path}, line {number} lacks {', '.join(sorted(missing))}")
            yield row


def read_hub(dataset: HubDataset, benchmark: str) -> list[Row]:
    """The rows of a data set at its pinned revision, in the form of a local folder."""
    import datasets  # slow to import

    datasets.disable_progress_bars()
    try:
        loaded = datasets.load_dataset(dataset.path, dataset.name, split=dataset.split, revision=dataset.revision)
    except Exception as error:  # datasets, huggingface_hub, httpx and pyarrow each raise their own types
        raise DataNotFoundError(
            f"benchmark {benchmark}: cannot get {dataset.path} at {dataset.revision} from the hub "
            f"({type(error).__name__}: {_first_line(error)}). Check the connection and HF_HUB_OFFLINE, or give a "
            f"folder with {benchmark}.jsonl: benchmarks.source.data_dir=<folder>"
        ) from error
    return [_from_hub(row, index, dataset, benchmark) for index, row in enumerate(loaded)]


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:200]


def _from_hub(row: Row, index: int, dataset: HubDataset, benchmark: str) -> Row:
    answer = row[dataset.answer]
    answers = [str(entry) for entry in answer] if isinstance(answer, list) else [str(answer)]
    text = ", ".join(answers)
    if dataset.answer_after:
        text = text.rpartition(dataset.answer_after)[2]
    return {
        "id": f"{benchmark}/{row.get('id', index)}",
        "problem": row[dataset.question],
        "answer": text.strip(),
        "options": row[dataset.options] if dataset.options else [],
        "level": row[dataset.level] if dataset.level else 0,
    }
