"""docs/tutorial.md as a new user meets it: an editable install, an own folder, every block executed in order."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import urllib.request
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.test_docs import documented

PROJECT = Path(__file__).resolve().parent.parent
TUTORIAL = PROJECT / "docs" / "tutorial.md"
PARTS = ("pyproject.toml", "requirements.txt", "rzero", "evaluation", "experiments", "conf", "sweeps")

SMALL = (
    "grader=exact",
    "response_tokens=24",
    "challenger.settings.steps=1",
    "challenger.settings.prompts_per_step=2",
    "challenger.polling.votes=2",
    "curriculum.candidates=24",
    "curriculum.votes=4",
    "solver.settings.steps=1",
    "solver.settings.prompts_per_step=2",
    "solver.settings.samples_per_prompt=2",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A fenced block: its language, its text, and the heading it stands under."""

    language: str
    text: str
    heading: str

    def write(self, folder: Path) -> None:
        """A block with a line `# PATH` belongs to that file; later ones of the same file are added to it."""
        named = re.search(r"^# (\S+\.(?:py|yaml))$", self.text, re.MULTILINE)
        assert named, f"{self.heading}: which file is this?\n{self.text}"
        path = folder / named[1]
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a", encoding="utf-8") as file:
            file.write(self.text)


def blocks() -> Iterator[Block]:
    heading = ""
    for part in re.finditer(r"^## ([^\n]+)$|^```(\w*)\n(.*?)^```$", TUTORIAL.read_text(encoding="utf-8"), re.M | re.S):
        if part[1]:
            heading = part[1]
        else:
            yield Block(language=part[2], text=part[3], heading=heading)


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a fresh environment with a copy of the project installed into it: editable, without a network.

    Requirements are those of the environment that runs the tests.
    """
    folder = tmp_path_factory.mktemp("installed")
    project, environment = folder / "project", folder / "environment"
    project.mkdir()
    for name in PARTS:
        source = PROJECT / name
        ignored = shutil.ignore_patterns("__pycache__", "results")
        if source.is_dir():
            shutil.copytree(source, project / name, ignore=ignored)
        else:
            shutil.copy(source, project / name)
    venv.create(environment, with_pip=False)
    python = environment / "bin" / "python"
    inside = sysconfig.get_path("purelib", vars={"base": str(environment)})
    (Path(inside) / "requirements_of_the_tests.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python)]
    install = [*pip, "install", "--no-index", "--no-deps", "--no-build-isolation", "-e", str(project)]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return python


@dataclass(frozen=True, slots=True)
class User:
    """Somebody in a folder of their own."""

    python: Path
    folder: Path

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        words = shlex.split(command)
        assert words[:2] == ["python", "-m"], command
        environment = {**os.environ, "RZERO_ROOT": "", "PYTHONPATH": ""}
        del environment["RZERO_ROOT"], environment["PYTHONPATH"]
        arguments = [str(self.python), *words[1:], *smaller(words)]
        if words[2] == "experiments.browse":
            return self.browse(arguments, environment)
        return subprocess.run(
            arguments, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=300, check=False
        )

    def browse(self, arguments: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
        """A browser's first request, then Ctrl-C."""
        process = subprocess.Popen(
            arguments, cwd=self.folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        with urllib.request.urlopen(process.stdout.readline().split()[0]) as answer:
            page = answer.read().decode()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        return subprocess.CompletedProcess(arguments, process.returncode, page, errors)


def smaller(words: list[str]) -> list[str]:
    """What makes a run of the tutorial take seconds."""
    if words[2] != "experiments.run" or any(word.startswith("resume=") for word in words):
        return []
    own = any(word.startswith("experiment=") for word in words)
    return [
        *SMALL,
        *(["benchmarks.source.source.largest=3"] if own else ["benchmarks.source.source.items=1"]),
        "benchmarks.protocol.k=2",
    ]


@pytest.mark.slow
def test_the_tutorial_does_what_it_says(python: Path, tmp_path: Path) -> None:
    user = User(python, tmp_path)
    for block in blocks():
        if block.language in ("python", "yaml"):
            block.write(user.folder)
        for command in commands(block):
            done = user.run(command)
            assert done.returncode == 0, f"{block.heading}: {command}\n{done.stdout[-1500:]}\n{done.stderr[-3000:]}"
    outputs = tmp_path / "outputs"
    rewards = [json.loads(line) for line in (outputs / "peak" / "metrics.jsonl").read_text().splitlines()]
    assert any("challenger/rewards/peak/mean" in row for row in rewards)
    questions = (outputs / "study" / "questions" / "questions_1.jsonl").read_text().splitlines()
    reasons = {json.loads(line)["drop_reason"] for line in questions}
    assert "too_long" in reasons
    first = outputs / "first"
    logged = {name for line in (first / "metrics.jsonl").read_text().splitlines() for name in json.loads(line)}
    metrics = documented("metrics.md")
    assert [name for name in sorted(logged) if not any(metric.fullmatch(name) for metric in metrics)] == []
    entries = [path for path in first.glob("*") if path.is_file()] + list(first.glob("*/*"))
    files = {path.relative_to(first).as_posix() + "/" * path.is_dir() for path in entries}
    left = documented("run_directory.md")
    assert [name for name in sorted(files) if not any(path.fullmatch(name) for path in left)] == []
    scores = json.loads((outputs / "study" / "iteration_2" / "evaluation.json").read_text())
    assert [benchmark["name"] for benchmark in scores["benchmarks"]] == ["products"]


def commands(block: Block) -> list[str]:
    if block.language != "bash":
        return []
    return [line.strip() for line in block.text.replace("\\\n", " ").splitlines() if line.strip()]
