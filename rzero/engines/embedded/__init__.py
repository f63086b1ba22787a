"""Rollouts by torch in this process: the engine of CPUs and of single GPUs."""

from rzero.engines.embedded.engine import EmbeddedEngine

__all__ = ["EmbeddedEngine"]
