"""vLLM in this process: how weights reach it, how engines share it, and what happens when it dies or sleeps."""

from __future__ import annotations

import copy
import functools
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch

from rzero.engines.across import ServedEngine, across
from rzero.engines.vllm import VllmEngine
from rzero.engines.vllm import in_process as resident
from rzero.engines.vllm.in_process import InProcessVllm, ResidentVllm, Snapshot
from rzero.engines.vllm.requests import Drawn, probe_requests
from rzero.engines.vllm.retry import EngineDied, retry_when_dead
from rzero.engines.vllm.server_client import Timeouts
from rzero.engines.vllm.servers import VllmServers
from rzero.engines.vllm.snapshot import architecture, serving_parts
from rzero.engines.vllm.transfer import ThroughFiles
from rzero.gathering import write_parts
from rzero.processes.ranks import Ranks
from rzero.types import Prompt, Sampling

HOST = {
    "threads": 1, "kv_cache_gib": 0.25, "gpu_memory_utilization": 0.5, "max_batched_tokens": 2048,
    "enforce_eager": True, "sleep_level": 0,
}  # fmt: skip
SERVERS = VllmServers(
    urls=["http://127.0.0.1:1"], replicas=1, devices=(), arguments=(), exchange=None, threads=1, kv_cache_gib=None,
    gpu_memory_utilization=0.5, max_batched_tokens=2048, enforce_eager=True,
    sleep_level=0, timeouts=Timeouts(start_s=1.0, answer_s=1.0, attempts=1, first_pause_s=0.0),
    transfer=ThroughFiles(),
)  # fmt: skip
PROMPTS = [Prompt(user="What is 12 + 34?"), Prompt(user="x")]
GREEDY = Sampling(temperature=0, max_tokens=12)


def make_engine(*, retries: int = 0, **host: Any) -> VllmEngine:
    return VllmEngine(
        host=InProcessVllm(**{**HOST, **host}), max_rows=16, max_model_len=None, retries=retries, tolerance=1e-4
    )


def tokens(groups):
    return [[completion.token_ids for completion in group.completions] for group in groups]


@pytest.fixture
def policy(make_policy):
    return make_policy("qwen3_tied", hidden_size=64, head_dim=32)


# ---- without vLLM ------------------------------------------------------------------------------------------------


class Recorder:
    """Stands for `vllm.LLM` and writes down what it is asked."""

    def __init__(self, fail_first: int = 0) -> None:
        self.calls: list[str] = []
        self.emptied = True
        self.model_config = type("Config", (), {"max_model_len": 256})

    def collective_rpc(self, method, *, kwargs):
        assert "model.embed_tokens.weight" in dict(kwargs["weights_iterator"])
        self.calls.append(method)

    def reset_prefix_cache(self):
        self.calls.append("reset_prefix_cache")
        return self.emptied

    def wake_up(self, tags):
        self.calls.append(f"wake {tags}")

    def sleep(self, level):
        self.calls.append(f"sleep {level}")


def draw(host: ResidentVllm, snapshot: Snapshot, llm: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resident, "_generate", lambda llm, requests, adapter: llm.calls.append("generate") or [])
    host.draw([], snapshot)


@pytest.mark.parametrize("level", [1, 2])
def test_a_sleeping_vllm_wakes_weights_first_and_the_cache_last(policy, monkeypatch, level):
    llm = Recorder()
    host = ResidentVllm(make=lambda shape: llm, threads=1, sleep_level=level)
    first, second = host.take(policy), host.take(policy)
    host.load(first)
    draw(host, first, llm, monkeypatch)
    host.rest()
    host.rest()  # asleep already
    assert llm.calls == ["reload_weights", "reset_prefix_cache", "generate", f"sleep {level}"]
    llm.calls.clear()
    host.load(second)
    reload = ["reload_weights", "reset_prefix_cache"]
    assert llm.calls == ["wake ['weights']", *reload, "wake ['kv_cache']"]
    draw(host, second, llm, monkeypatch)
    host.rest()
    llm.calls.clear()
    host.load(second)  # level 1 kept the weights, level 2 did not
    assert llm.calls == ["wake ['weights']", *(reload if level == 2 else []), "wake ['kv_cache']"]


def test_keys_of_old_weights_that_stay_in_the_cache_are_an_error(policy):
    llm = Recorder()
    llm.emptied = False
    host = ResidentVllm(make=lambda shape: llm, threads=1, sleep_level=0)
    with pytest.raises(RuntimeError, match="could not empty its prefix cache"):
        host.load(host.take(policy))


def test_engines_share_a_host_and_load_their_own_weights_when_they_draw(policy, make_policy):
    made: list[Recorder] = []
    host = ResidentVllm(make=lambda shape: made.append(Recorder()) or made[-1], threads=1, sleep_level=0)
    mine, theirs = host.take(policy), host.take(policy)
    for snapshot in (mine, mine, theirs, mine):
        host.load(snapshot)
    assert made[0].calls.count("reload_weights") == 3
    host.load(host.take(make_policy("qwen3")))  # another architecture needs another vLLM
    assert len(made) == 2


def test_a_head_that_is_tied_is_written_under_its_own_name_for_vllm_on_cpus(policy, make_policy, tmp_path, monkeypatch):
    from safetensors.torch import load_file

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    untied = make_policy("qwen3")
    for some in (policy, untied):
        write_parts(tmp_path, serving_parts(some), stem="model", write=True, purpose="a test")
        written = load_file(tmp_path / "model.safetensors")
        assert torch.equal(written["lm_head.weight"], some.model.get_output_embeddings().weight)
        assert torch.equal(written["model.embed_tokens.weight"], some.model.get_input_embeddings().weight)
    assert architecture(policy) != architecture(untied)


def test_on_gpus_a_head_that_is_tied_is_not_written_twice(policy, make_policy, tmp_path, monkeypatch):
    from safetensors.torch import load_file

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    write_parts(tmp_path, serving_parts(policy), stem="model", write=True, purpose="a test")
    written = load_file(tmp_path / "model.safetensors")
    assert written.keys() == policy.model.state_dict().keys() - {"lm_head.weight"}
    assert "lm_head.weight" in {name for part in serving_parts(make_policy("qwen3")) for name in part.names}


def test_a_call_is_repeated_until_the_retries_are_used_up():
    revived = []

    def dies(times):
        def work():
            if len(revived) < times:
                raise EngineDied("replica 0 is gone")
            return "done"

        return work

    assert retry_when_dead(dies(2), revive=lambda: revived.append(1), retries=2) == "done"
    revived.clear()
    with pytest.raises(RuntimeError, match=r"died 3 times in one call \(engine.retries=2\); last: replica 0 is gone"):
        retry_when_dead(dies(3), revive=lambda: revived.append(1), retries=2)
    with pytest.raises(ZeroDivisionError):  # what is no death is not repeated
        retry_when_dead(lambda: 1 // 0, revive=lambda: revived.append(1), retries=2)
    assert len(revived) == 2


def test_servers_draw_for_several_processes_and_vllm_in_the_process_for_one():
    one, two = Ranks(), Ranks(rank=1, size=2)
    resident_engine = make_engine()
    served_engine = VllmEngine(host=SERVERS, max_rows=4, max_model_len=None, retries=0, tolerance=None)
    assert across(resident_engine, one) is resident_engine
    assert isinstance(across(served_engine, two), ServedEngine)
    with pytest.raises(ValueError, match=r"one process: set trainer\.devices=1, or use engine=vllm_server"):
        across(resident_engine, two)


class SecondRank(Ranks):
    """The second of two, where the first draws zeros."""

    def shared(self, function):
        return lambda *_: [Drawn(token_ids=(1, 2, 3), logprobs=(0.0, 0.0, 0.0))] * 2


def test_the_first_rank_alone_runs_a_policy_that_is_not_split(policy, make_policy):
    """The others may hold an outline, which cannot be run."""
    engine = VllmEngine(host=SERVERS, max_rows=4, max_model_len=None, retries=0, tolerance=None)
    policy.model.to("meta")
    engine.sync(policy, ranks=SecondRank(rank=1, size=2))
    whole = make_policy("qwen3_tied", hidden_size=64, head_dim=32)
    with pytest.raises(RuntimeError, match="log-probs differ from the policy's"):
        engine.verify(whole, ranks=SecondRank(rank=0, size=2))


def test_without_vllm_the_error_says_what_to_install(policy, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    engine = make_engine()
    with pytest.raises(RuntimeError, match="make vllm"):
        engine.sync(policy)
    engine.close()


@pytest.mark.parametrize(
    "wrong",
    [
        {"threads": 0},
        {"sleep_level": 3},
        {"gpu_memory_utilization": 0.0},
        {"kv_cache_gib": 0},
        {"max_batched_tokens": 0},
    ],
)
def test_wrong_host_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=r"engine\.host\."):
        InProcessVllm(**{**HOST, **wrong})


@pytest.mark.parametrize("wrong", [{"max_rows": 0}, {"max_model_len": 1}, {"retries": -1}, {"tolerance": 0.0}])
def test_wrong_engine_settings_are_refused(wrong):
    right = {"max_rows": 16, "max_model_len": None, "retries": 0, "tolerance": 1e-4}
    with pytest.raises(ValueError, match=r"engine\."):
        VllmEngine(host=InProcessVllm(**HOST), **{**right, **wrong})


# ---- with vLLM ---------------------------------------------------------------------------------------------------


@pytest.mark.vllm
def test_weights_without_a_tied_head_are_noticed(policy, monkeypatch):
    """The trap: without `lm_head.weight` vLLM keeps the old head. The check after a sync sees it."""
    engine = make_engine()
    engine.sync(policy)
    with torch.no_grad():
        policy.model.get_input_embeddings().weight.mul_(1.3)
    complete = resident.serving_parts
    trapped = lambda policy, dtype: [replace(part, names=part.names[:1]) for part in complete(policy, dtype=dtype)]  # noqa: E731
    with monkeypatch.context() as patch:
        patch.setattr(resident, "serving_parts", trapped)
        with pytest.raises(RuntimeError, match="differ from the policy's by"):
            engine.sync(policy)
    engine.sync(policy)
    engine.close()


@pytest.mark.vllm
def test_two_engines_on_one_vllm_keep_their_weights(policy, make_policy):
    learning, frozen = make_engine(), make_engine()
    other = make_policy("qwen3_tied", seed=1, hidden_size=64, head_dim=32)
    learning.sync(policy)
    mine = tokens(learning.generate(PROMPTS, GREEDY))
    frozen.sync(other)
    assert frozen._host is learning._host
    theirs = tokens(frozen.generate(PROMPTS, GREEDY))
    assert theirs != mine
    assert tokens(learning.generate(PROMPTS, GREEDY)) == mine
    learning.close()
    assert tokens(frozen.generate(PROMPTS, GREEDY)) == theirs
    frozen.close()
    assert not torch.distributed.is_initialized(), "the process is free for another run"


@pytest.mark.vllm
def test_a_vllm_that_dies_in_a_call_is_built_again_and_gives_the_same(policy, monkeypatch):
    engine = make_engine(retries=1)
    engine.sync(policy)
    sampling = Sampling(n=3, max_tokens=12, seed=4)
    expected = tokens(engine.generate(PROMPTS, sampling))
    generate, failures = resident._generate, [RuntimeError("CUDA error: an illegal memory access was encountered")]

    def fails_once(llm, requests, adapter):
        if failures:
            raise failures.pop()
        return generate(llm, requests, adapter)

    monkeypatch.setattr(resident, "_generate", fails_once)
    assert tokens(engine.generate(PROMPTS, sampling)) == expected
    failures += [RuntimeError("out of memory")] * 2
    with pytest.raises(RuntimeError, match=r"died 2 times in one call .* out of memory"):
        engine.generate(PROMPTS, sampling)
    engine.close()


@pytest.mark.vllm
def test_another_architecture_gets_another_vllm(policy, make_policy):
    engine = make_engine()
    engine.sync(policy)
    llama = make_policy("llama", hidden_size=64, head_dim=32, max_position_embeddings=128)
    engine.sync(llama)
    with pytest.raises(ValueError, match="the model's context is 128"):
        engine.generate([Prompt(user="number " * 60)], GREEDY)
    probe = probe_requests([[1, 2, 3]], tokens=2)
    assert engine._draw(probe) == engine._draw(probe)
    engine.close()


@pytest.mark.vllm
def test_a_smaller_model_length_bounds_prompt_and_response(policy):
    engine = VllmEngine(host=InProcessVllm(**HOST), max_rows=4, max_model_len=64, retries=0, tolerance=1e-4)
    policy.tokenizer.eos_token = policy.model.generation_config.eos_token_id = None
    engine.sync(policy)
    with pytest.raises(ValueError, match="the model's context is 64"):
        engine.generate([Prompt(user="number " * 60)], GREEDY)
    [group] = engine.generate(PROMPTS[1:], Sampling(max_tokens=500))
    assert len(group.prompt_ids) + len(group.completions[0].token_ids) == 64
    engine.close()


@pytest.mark.vllm
def test_vllm_in_bfloat16_samples_from_the_rounded_policy(policy):
    """Weights travel as they are and vLLM rounds them; log-probs are those of the policy up to that."""
    engine = VllmEngine(
        host=InProcessVllm(**HOST), max_rows=16, max_model_len=None, retries=0, tolerance=None, dtype="bfloat16"
    )
    engine.sync(policy)
    groups = engine.generate(PROMPTS, Sampling(n=4, max_tokens=12, seed=2))
    rounded = copy.deepcopy(policy.model).bfloat16()
    off = {"policy": 0.0, "rounded": 0.0}
    for group in groups:
        for completion in group.completions:
            ids = torch.tensor([[*group.prompt_ids, *completion.token_ids]])
            for name, model in (("policy", policy.model), ("rounded", rounded)):
                with torch.no_grad():
                    logits = model(input_ids=ids).logits[0, len(group.prompt_ids) - 1 : -1].float()
                chosen = logits.log_softmax(-1).gather(1, torch.tensor(completion.token_ids)[:, None]).squeeze(1)
                off[name] = max(off[name], float((torch.tensor(completion.logprobs) - chosen).abs().max()))
    assert off["rounded"] < 0.25, "vLLM rounds in other places than transformers"
    assert off["policy"] > 1e-4, "nothing was rounded"
    with torch.no_grad():
        policy.model.get_input_embeddings().weight.mul_(-1.0)
    with pytest.raises(RuntimeError, match="differ from the policy's by"):
        engine.verify(policy)
    engine.close()


def test_snapshots_are_compared_by_identity(policy):
    """Equal weights of two syncs are still two snapshots; comparing tensors would be an error."""
    make = functools.partial(Snapshot, architecture=architecture(policy), weights={}, fingerprints={})
    assert make() != make()
