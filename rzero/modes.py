"""Training and evaluation mode for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def in_mode(model: nn.Module, *, training: bool) -> Iterator[None]:
    """Puts a model into a mode, and afterwards back into the one that it was in."""
    before = model.training
    model.train(training)
    try:
        yield
    finally:
        model.train(before)
