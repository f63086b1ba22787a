"""The graders under test, built from the files a run uses, and the data that lies beside the repository."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from rzero.grading import MathGrader, OfficialGrader

ROOT = Path(__file__).resolve().parents[3]
SHARED = ROOT.parent / "shared"


def build(name: str = "default", **changes: Any) -> Any:
    """`conf/grader/<name>.yaml` with some numbers changed."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        composed = compose(f"grader/{name}")
    return instantiate(composed.grader, **changes)


@pytest.fixture(scope="session")
def grader() -> Iterator[MathGrader]:
    with build() as grader:
        yield grader


@pytest.fixture(scope="session")
def official() -> Iterator[OfficialGrader]:
    with build("official") as grader:
        yield grader


@pytest.fixture
def make_grader() -> Callable[..., MathGrader]:
    return build


@pytest.fixture(scope="session")
def hostile_answers() -> list[str]:
    return hostile("answers")


def hostile(name: str) -> list[str]:
    """The texts of /work/shared/hostile; skips the test where that folder is not there."""
    path = SHARED / "hostile" / f"{name}.jsonl"
    if not path.exists():
        pytest.skip(f"{path} is not on this machine")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    return [row["text"] if "text" in row else "".join(part * count for part, count in row["parts"]) for row in rows]
