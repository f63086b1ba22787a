"""Rollouts by vLLM, in this process or behind servers."""

from rzero.engines.vllm.engine import VllmEngine

__all__ = ["VllmEngine"]
