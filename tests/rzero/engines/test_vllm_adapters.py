"""LoRA adapters served as adapters: what travels and under which names, by stubs; two policies in one real vLLM."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import distributed
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from rzero.engines.vllm import VllmEngine
from rzero.engines.vllm.adapters import fingerprint, room_for
from rzero.engines.vllm.in_process import InProcessVllm
from rzero.engines.vllm.requests import RowRequest
from rzero.engines.vllm.server_client import Timeouts
from rzero.engines.vllm.servers import ServedVllm, VllmServers
from rzero.engines.vllm.snapshot import architecture, in_memory, serving_parts
from rzero.engines.vllm.transfer import ThroughFiles
from rzero.sharding import shard
from rzero.types import Prompt, Sampling
from tests.rzero.engines.scripted_server import Scripted, serving

PROMPTS = [Prompt(user="What is 12 + 34?"), Prompt(user="x")]
SERVERS: dict[str, Any] = {
    "urls": (), "replicas": 1, "devices": (), "arguments": (), "exchange": None, "threads": 1, "kv_cache_gib": 0.25,
    "gpu_memory_utilization": 0.5, "max_batched_tokens": 2048, "enforce_eager": True, "sleep_level": 0,
    "timeouts": Timeouts(start_s=300.0, answer_s=60.0, attempts=3, first_pause_s=0.1), "transfer": ThroughFiles(),
}  # fmt: skip
ROW = RowRequest(prompt_ids=(5, 6), params={"max_tokens": 2, "logprobs": 0})


@pytest.fixture
def servers() -> Iterator[tuple[ServedVllm, list[Scripted]]]:
    with serving() as (one, first), serving() as (two, second):
        host = VllmServers(**{**SERVERS, "urls": [one, two]}).start(max_rows=4, max_tokens=None)
        yield host, [first, second]
        host.shut_down()


def test_the_base_travels_once_and_each_sync_is_a_new_name(servers, adapted):
    host, scripts = servers
    learning, frozen = host.take(adapted(1)), host.take(adapted(2))
    assert learning.directory == frozen.directory
    for snapshot in (frozen, learning, frozen):
        host.load(snapshot)
    host.forget(learning)
    assert not learning.adapter.directory.exists()
    later = host.take(adapted(3))
    host.load(later)
    host.draw([ROW, ROW], later)
    host.draw([ROW], frozen)
    for script in scripts:
        assert len(script.bodies("/collective_rpc")) == 1, "weights below the adapters"
        loaded = script.bodies("/v1/load_lora_adapter")
        assert [body["lora_path"] for body in loaded] == [
            str(snapshot.adapter.directory) for snapshot in (frozen, learning, later)
        ]
        names = [body["lora_name"] for body in loaded]
        assert len(set(names)) == 3
        assert script.bodies("/v1/unload_lora_adapter") == [{"lora_name": names[1]}]
    drawn = [body["model"] for script in scripts for body in script.bodies("/inference/v1/generate")]
    assert sorted(drawn) == sorted([names[2], names[2], names[0]])


def test_the_directory_is_one_that_peft_reads(servers, adapted, make_policy):
    host, _ = servers
    policy = adapted(1)
    files = host.take(policy)
    written = load_file(files.directory / "model.safetensors")
    plain = make_policy("qwen3_tied", hidden_size=64, head_dim=32)
    below = in_memory(serving_parts(plain))
    assert below.keys() == written.keys()
    assert all(torch.equal(written[name], tensor) for name, tensor in below.items())
    read = PeftModel.from_pretrained(plain.model, str(files.adapter.directory))
    ids = torch.arange(8)[None]
    assert torch.equal(read(input_ids=ids).logits, policy.model(input_ids=ids).logits)


def test_weights_below_that_nobody_needs_are_deleted(servers, adapted):
    host, _ = servers
    one, two, other = host.take(adapted(1)), host.take(adapted(2)), host.take(adapted(1, base=7))
    assert other.directory != one.directory
    host.forget(one)
    assert two.directory.exists()
    host.forget(two)
    assert not two.directory.exists()
    assert other.directory.exists()


def test_a_server_that_came_back_is_given_base_and_adapters_again(servers, adapted):
    host, scripts = servers
    learning, frozen = host.take(adapted(1)), host.take(adapted(2))
    host.load(learning)
    host.load(frozen)
    host.restart()
    host.load(learning)
    host.load(frozen)
    for script in scripts:
        assert len(script.bodies("/collective_rpc")) == 2
        names = [body["lora_name"] for body in script.bodies("/v1/load_lora_adapter")]
        assert len(set(names)) == len(names) == 4


@pytest.mark.parametrize("status", [404, 400, 500])
def test_a_server_that_takes_no_adapters_is_refused_with_what_to_start_it_with(servers, adapted, status):
    host, scripts = servers
    scripts[1].before = lambda path: status if path == "/v1/load_lora_adapter" else None
    with pytest.raises(RuntimeError, match=r"(?s)replica 1 .* does not take LoRA adapters \(status") as refused:
        host.load(host.take(adapted(1)))
    for what in ("VLLM_ALLOW_RUNTIME_LORA_UPDATING=1", "--enable-lora --max-lora-rank 8 --max-loras 2"):
        assert what in str(refused.value)


def test_ranks_get_the_smallest_room_that_vllm_has(adapted):
    assert [room_for(rank) for rank in (1, 8, 9, 100, 512)] == [8, 8, 16, 128, 512]
    with pytest.raises(ValueError, match=r"policy\.lora\.rank is 513, vLLM serves adapters of rank 512 at most"):
        room_for(513)
    shape = architecture(adapted(1))
    arguments = " ".join(VllmServers(**SERVERS).serve_arguments(shape, max_rows=4, max_tokens=None))
    assert "--enable-lora --max-lora-rank 8 --max-loras 2" in arguments


def test_a_base_is_known_by_its_weights_alone(adapted, make_policy):
    one, two, other = (base.model.get_base_model() for base in (adapted(1), adapted(2), adapted(1, base=7)))
    assert fingerprint(one) == fingerprint(two) != fingerprint(other)
    plain = make_policy("qwen3_tied", hidden_size=64, head_dim=32).model.state_dict()
    below = in_memory(serving_parts(adapted(1)))
    assert all(torch.equal(below[name], tensor) for name, tensor in plain.items())


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[DeviceMesh]:
    """One process that FSDP2 splits weights over: tensors are DTensors all the same."""
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    distributed.destroy_process_group()


def test_of_split_policies_adapters_alone_are_put_together(servers, adapted, mesh):
    host, _ = servers
    policy = adapted(1)
    before = host.take(policy)
    shard(policy.model, mesh)
    after = host.take(policy)
    assert after.directory == before.directory
    written, expected = (load_file(taken.adapter.directory / "adapter_model.safetensors") for taken in (after, before))
    assert written.keys() == expected.keys()
    assert all(torch.equal(written[name], expected[name]) for name in expected)
    unseen = adapted(2)
    shard(unseen.model, mesh)
    with pytest.raises(RuntimeError, match="sync the engine first"):
        host.take(unseen)


def test_a_death_in_the_middle_repeats_questions_and_answers(adapted, monkeypatch):
    monkeypatch.setattr(VllmEngine, "verify", lambda self, policy, ranks: None)  # echoes have no log-probs
    with serving() as (url, script):
        host = VllmServers(**{**SERVERS, "urls": [url]})
        learning, frozen = (
            VllmEngine(host=host, max_rows=4, max_model_len=None, retries=1, tolerance=None) for _ in range(2)
        )
        learning.sync(adapted(1))
        frozen.sync(adapted(2))
        together = {"ask": lambda text: Prompt(user=text), "other": frozen, "answers": Sampling(n=2, max_tokens=2)}
        expected = learning.generate_and_ask(PROMPTS, Sampling(n=3, max_tokens=2), **together)
        assert [len(answers) for answers in expected[1]] == [2] * 6
        drawn = len(script.bodies("/inference/v1/generate"))
        failing = [500]
        script.before = lambda path: (
            failing.pop() if failing and path.endswith("generate") and len(script.bodies(path)) > drawn + 9 else None
        )
        assert learning.generate_and_ask(PROMPTS, Sampling(n=3, max_tokens=2), **together) == expected
        assert not failing
        script.before = lambda path: 500 if path.endswith("generate") else None
        with pytest.raises(RuntimeError, match=r"died 2 times in one call"):
            learning.generate_and_ask(PROMPTS, Sampling(n=3, max_tokens=2), **together)
        learning.close()
        frozen.close()


# ---- with vLLM ---------------------------------------------------------------------------------------------------


def in_process() -> VllmEngine:
    host = InProcessVllm(
        threads=1, kv_cache_gib=0.25, gpu_memory_utilization=0.5, max_batched_tokens=2048, enforce_eager=True,
        sleep_level=0,
    )  # fmt: skip
    return VllmEngine(host=host, max_rows=16, max_model_len=None, retries=0, tolerance=1e-4)


def served() -> VllmEngine:
    """With the settings of `served_engine`, so that its server is used where it still runs."""
    return VllmEngine(host=VllmServers(**SERVERS), max_rows=64, max_model_len=None, retries=0, tolerance=1e-4)


def ask(text: str) -> Prompt | None:
    """About every other completion is asked about."""
    return Prompt(user=f"Why {len(text)}?") if len(text) % 2 else None


@pytest.mark.vllm
@pytest.mark.parametrize("make", [in_process, served])
def test_two_policies_in_one_vllm_and_answers_drawn_meanwhile(adapted, make):
    """Each sync compares log-probs with the policy's own: a wrong or an old adapter would be an error."""
    learning, frozen = make(), make()
    policy = adapted(1)
    learning.sync(policy)
    frozen.sync(adapted(2))
    assert learning.beside(frozen)
    with torch.no_grad():
        for name, parameter in policy.model.named_parameters():
            if "lora_B" in name:
                parameter.mul_(-1.0)
    learning.sync(policy)
    sampling, answers = Sampling(n=5, max_tokens=20, seed=3), Sampling(n=3, max_tokens=12, seed=4)
    groups = learning.generate(PROMPTS, sampling)
    asked = [ask(completion.text) for group in groups for completion in group.completions]
    assert 0 < sum(prompt is not None for prompt in asked) < len(asked)
    expected = iter(frozen.generate([prompt for prompt in asked if prompt], answers))
    texts = [[c.text for c in next(expected).completions] if prompt else None for prompt in asked]
    assert frozen.texts([prompt for prompt in asked if prompt], answers) == [drawn for drawn in texts if drawn]
    together = learning.generate_and_ask(PROMPTS, sampling, ask=ask, other=frozen, answers=answers)
    assert [[c.token_ids for c in group.completions] for group in together[0]] == [
        [c.token_ids for c in group.completions] for group in groups
    ]
    assert together[1] == texts
    learning.close()
    frozen.close()
