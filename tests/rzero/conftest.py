"""Tiny models as fixtures."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from rzero.policy import Policy
from tests.tiny_models import build_policy, build_tokenizer


@pytest.fixture(scope="session")
def make_tokenizer() -> Callable[[], PreTrainedTokenizerFast]:
    return build_tokenizer


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer()


@pytest.fixture(scope="session")
def make_policy() -> Callable[..., Policy]:
    """make_policy("qwen3", seed=0, **config changes) -> Policy."""
    return build_policy


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The saved model that tiny runs start from."""
    path = tmp_path_factory.mktemp("base") / "model"
    build_policy("qwen3_tied").save(path)
    return path


@pytest.fixture
def quiet_lightning() -> Iterator[None]:
    """Lightning and torch warn about their own internals."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
