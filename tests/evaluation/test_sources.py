"""Which rows of a folder or of the hub a benchmark asks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from evaluation.sources import Datasets


def test_some_rows_of_a_benchmark(tmp_path: Path) -> None:
    rows = "".join(f'{{"id": "{number}", "problem": "p", "answer": "{number}"}}\n' for number in range(6))
    (tmp_path / "gsm8k.jsonl").write_text(rows)

    def answers(**options: Any) -> list[str]:
        source = Datasets(hub={}, data_dir=str(tmp_path), **options)
        return [row["answer"] for row in source.documents("gsm8k", kind="mathematics")]

    assert answers(rows={"gsm8k": (2, 5), "math500": (0, 1)}) == ["2", "3", "4"]
    assert answers(rows={"gsm8k": (2, 5)}, limit=1) == ["2"]
    with pytest.raises(ValueError, match=r"gsm8k has 6 rows, benchmarks.source.rows asks for 6 to 9"):
        answers(rows={"gsm8k": (6, 9)})
    with pytest.raises(ValueError, match=r"gsm8k has 6 rows, benchmarks\.source\.rows asks for 4 to 9"):
        answers(rows={"gsm8k": (4, 9)})
    with pytest.raises(ValueError, match="one behind the last"):
        answers(rows={"gsm8k": (3, 3)})


def test_rows_of_the_hub_take_the_form_of_the_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    rows = [{"question": "q", "answer": "work\n#### 7", "final_answer": ["$1$", "$2$"]}]
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: rows)
    base = {"path": "a/b", "split": "test", "revision": "abc", "question": "question"}
    hub = {"gsm8k": {**base, "answer_after": "####"}, "olympiadbench": {**base, "answer": "final_answer"}}
    source = Datasets(hub=hub)
    assert source.documents("gsm8k", kind="mathematics")[0]["answer"] == "7"
    assert source.documents("olympiadbench", kind="mathematics")[0]["answer"] == "$1$, $2$"
