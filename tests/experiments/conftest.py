"""Runs of a study that are made up once for all files that look at them."""

from __future__ import annotations

import pytest

from experiments.reproduce.half_billion import __main__ as command
from experiments.reproduce.half_billion import figures
from experiments.reproduce.seeded import SeededStudy
from tests.experiments.invented_study import invented


@pytest.fixture(scope="session")
def invented_runs(tmp_path_factory: pytest.TempPathFactory) -> SeededStudy:
    return invented(tmp_path_factory.mktemp("study"))


@pytest.fixture
def made_up(invented_runs: SeededStudy, monkeypatch: pytest.MonkeyPatch) -> SeededStudy:
    """The study of half a billion parameters, its figures and its command, with runs that are made up."""
    for module in (figures, command):
        monkeypatch.setattr(module, "STUDY", invented_runs)
    return invented_runs
