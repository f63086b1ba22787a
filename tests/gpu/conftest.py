from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.tiny_models import build_policy


@pytest.fixture(scope="session", params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    """The GPU, and for the same test in CI the CPU."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a GPU: torch.cuda.is_available() is False")
    return torch.device(request.param)


@pytest.fixture(autouse=True)
def tolerated_warnings() -> Iterator[None]:
    """Packages of other versions warn of other things."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The saved model that phases start from."""
    path = tmp_path_factory.mktemp("base") / "model"
    build_policy("qwen3_tied").save(path)
    return path
