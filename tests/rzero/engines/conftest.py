"""Engines that are too slow to start for each file."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rzero.engines.vllm import VllmEngine
from rzero.engines.vllm.server_client import Timeouts
from rzero.engines.vllm.servers import VllmServers
from rzero.engines.vllm.transfer import ThroughFiles


@pytest.fixture(scope="session")
def served_engine() -> Iterator[VllmEngine]:
    """vLLM behind a server that we start: about a minute."""
    host = VllmServers(
        urls=(), replicas=1, devices=(), arguments=(), exchange=None, threads=1, kv_cache_gib=0.25,
        gpu_memory_utilization=0.5, max_batched_tokens=2048, enforce_eager=True, sleep_level=0,
        timeouts=Timeouts(start_s=300.0, answer_s=60.0, attempts=3, first_pause_s=0.1), transfer=ThroughFiles(),
    )  # fmt: skip
    engine = VllmEngine(host=host, max_rows=64, max_model_len=None, retries=1, tolerance=1e-4)
    yield engine
    engine.close()
