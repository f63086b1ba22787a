"""Engines that are too slow to start for each file; policies with adapters."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

from rzero.adapters import LoraSpec, add_adapters
from rzero.engines.vllm import VllmEngine
from rzero.engines.vllm.server_client import Timeouts
from rzero.engines.vllm.servers import VllmServers
from rzero.engines.vllm.transfer import ThroughFiles
from rzero.policy import Policy

LORA = LoraSpec(rank=4, alpha=8.0, dropout=0.0, target_modules=("q_proj", "v_proj", "down_proj"))


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


@pytest.fixture
def adapted(make_policy: Callable[..., Policy]) -> Callable[..., Policy]:
    """adapted(number) -> the same base each time, under adapters that do something."""

    def make(number: int, *, base: int = 0) -> Policy:
        policy = make_policy("qwen3_tied", seed=base, hidden_size=64, head_dim=32)
        model = add_adapters(policy.model, LORA)
        torch.manual_seed(number)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.3)
        return Policy(model=model, tokenizer=policy.tokenizer)

    return make
