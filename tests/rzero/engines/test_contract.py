"""What every rollout engine promises, asked of each of them on the same model. vLLM's are marked `vllm`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from rzero.engines.embedded import EmbeddedEngine
from rzero.engines.vllm import VllmEngine
from rzero.engines.vllm.in_process import InProcessVllm
from rzero.interfaces import DistributedEngine, RolloutEngine, ShardableEngine
from rzero.policy import Policy
from rzero.types import Prompt, Sampling

PROMPTS = [Prompt(system="Be brief.", user=text) for text in ("What is 12 + 34?", "x", "Let x be a number. " * 3)]
GREEDY = Sampling(temperature=0, max_tokens=24)


def embedded() -> EmbeddedEngine:
    return EmbeddedEngine(
        max_rows=64, threads=1, compact_below=0.85, prefill_tokens=1000, first_capacity=8, verify_sync=True,
        decoder="auto",
    )  # fmt: skip


def vllm() -> VllmEngine:
    host = InProcessVllm(
        threads=1, kv_cache_gib=0.25, gpu_memory_utilization=0.5, max_batched_tokens=2048, enforce_eager=True,
        sleep_level=0,
    )  # fmt: skip
    return VllmEngine(host=host, max_rows=64, max_model_len=None, retries=0, tolerance=1e-4)


ENGINES = [embedded, *(pytest.param(name, marks=pytest.mark.vllm) for name in (vllm, "served_engine"))]


@pytest.fixture(scope="module", params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Iterator[Any]:
    """One engine for the whole file: vLLM takes half a minute to start, a server a minute."""
    if isinstance(request.param, str):
        yield request.getfixturevalue(request.param)
    else:
        made = request.param()
        yield made
        made.close()


@pytest.fixture
def policy(make_policy: Callable[..., Policy]) -> Policy:
    """Tied embeddings, and heads of a width that vLLM's attention has kernels for."""
    return make_policy("qwen3_tied", hidden_size=64, head_dim=32)


def test_it_is_what_the_protocols_say(engine):
    for protocol in (RolloutEngine, ShardableEngine, DistributedEngine):
        assert isinstance(engine, protocol)
    given, promised = (inspect.signature(kind.generate).parameters for kind in (type(engine), ShardableEngine))
    assert list(given) == list(promised)
    assert {name: each.kind for name, each in given.items()} == {name: each.kind for name, each in promised.items()}


def tokens(groups):
    return [[completion.token_ids for completion in group.completions] for group in groups]


def flat(groups):
    return [completion for group in groups for completion in group.completions]


def move(policy, *, by):
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=by)


def reference_logprobs(policy, group, completion, *, temperature=1.0):
    ids = torch.tensor([[*group.prompt_ids, *completion.token_ids]])
    with torch.no_grad():
        logits_TV = policy.model(input_ids=ids).logits[0, len(group.prompt_ids) - 1 : -1] / temperature
    return logits_TV.log_softmax(-1).gather(1, torch.tensor(completion.token_ids)[:, None]).squeeze(1)


def assert_samples_from(policy, groups, *, temperature=1.0):
    for group in groups:
        for completion in group.completions:
            expected = reference_logprobs(policy, group, completion, temperature=temperature)
            assert torch.allclose(torch.tensor(completion.logprobs), expected, atol=1e-4)


def test_greedy_tokens_are_those_of_transformers(engine, policy):
    engine.sync(policy)
    for group in engine.generate(PROMPTS, GREEDY):
        ids = torch.tensor([group.prompt_ids])
        expected = policy.model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=24)
        assert list(group.completions[0].token_ids) == expected[0, len(group.prompt_ids) :].tolist()


@pytest.mark.parametrize("temperature", [1.0, 0.7, 0.0])
def test_logprobs_are_those_of_the_policy(engine, policy, temperature):
    engine.sync(policy)
    groups = engine.generate(PROMPTS, Sampling(n=3, temperature=temperature, max_tokens=24, seed=1))
    assert_samples_from(policy, groups, temperature=temperature or 1.0)


def test_groups_come_in_the_order_of_prompts_and_samples(engine, policy):
    engine.sync(policy)
    sampling = Sampling(n=4, max_tokens=12, seed=5)
    groups = engine.generate(PROMPTS, sampling)
    assert [group.prompt for group in groups] == PROMPTS
    assert [len(group.completions) for group in groups] == [4, 4, 4]
    fewer = engine.generate(PROMPTS[:2], replace(sampling, n=2))
    assert tokens(fewer) == [group[:2] for group in tokens(groups)[:2]]  # rows do not depend on one another
    assert engine.generate([], sampling) == []


def test_shares_make_up_the_whole(engine, policy):
    engine.sync(policy)
    sampling = Sampling(n=3, max_tokens=12, seed=2)
    whole = tokens(engine.generate(PROMPTS, sampling))
    parts = [tokens(engine.generate(PROMPTS, sampling, share=(part, 2))) for part in range(2)]
    assert [[*first, *second] for first, second in zip(*parts, strict=True)] == whole


def test_seeds(engine, policy):
    engine.sync(policy)
    sampling = Sampling(n=4, max_tokens=12, seed=1)
    first = tokens(engine.generate(PROMPTS[:1] * 2, sampling))
    assert first == tokens(engine.generate(PROMPTS[:1] * 2, sampling))
    assert len({ids for group in first for ids in group}) == 8  # equal prompts and all samples draw their own numbers
    assert first != tokens(engine.generate(PROMPTS[:1] * 2, replace(sampling, seed=2)))
    engine.generate(PROMPTS[:1], replace(sampling, seed=-1))


def test_the_training_process_is_left_alone(engine, policy):
    torch.manual_seed(0)
    expected, setter, threads = torch.rand(3), torch.set_num_threads, torch.get_num_threads()
    torch.manual_seed(0)
    engine.sync(policy)
    engine.generate(PROMPTS, Sampling(max_tokens=5))
    assert torch.equal(torch.rand(3), expected)
    assert torch.set_num_threads is setter
    assert torch.get_num_threads() == threads


def test_truncation_keeps_the_likeliest(engine, policy):
    engine.sync(policy)
    greedy = tokens(engine.generate(PROMPTS, GREEDY))
    assert tokens(engine.generate(PROMPTS, replace(GREEDY, temperature=1.0, top_k=1))) == greedy
    assert tokens(engine.generate(PROMPTS, replace(GREEDY, temperature=1.0, top_p=1e-6))) == greedy
    for group in engine.generate(PROMPTS, Sampling(n=8, top_k=3, max_tokens=8, seed=4)):
        for completion in group.completions:
            ids = torch.tensor([[*group.prompt_ids, *completion.token_ids]])
            with torch.no_grad():
                logits_TV = policy.model(input_ids=ids).logits[0, len(group.prompt_ids) - 1 : -1]
            likeliest = logits_TV.topk(3).indices.tolist()
            assert all(token in best for token, best in zip(completion.token_ids, likeliest, strict=True))


def test_temperature_sharpens(engine, policy):
    engine.sync(policy)
    spread = {}
    for temperature in (0.05, 2.0):
        groups = engine.generate(PROMPTS, Sampling(n=16, temperature=temperature, max_tokens=1, seed=3))
        spread[temperature] = sum(len(set(group)) for group in tokens(groups))
    assert spread[0.05] < spread[2.0]


def test_eos_ends_a_response_and_belongs_to_it(engine, policy):
    policy.model.generation_config.eos_token_id = list(range(240, 310))
    engine.sync(policy)
    ends = set(policy.eos_ids())
    completions = flat(engine.generate(PROMPTS, Sampling(n=20, max_tokens=6, seed=3)))
    assert {completion.finish_reason for completion in completions} == {"stop", "length"}
    for completion in completions:
        assert not ends & set(completion.token_ids[:-1])
        assert len(completion.token_ids) == len(completion.logprobs) <= 6
        stopped = completion.token_ids[-1] in ends
        assert completion.finish_reason == ("stop" if stopped else "length")
        assert stopped or len(completion.token_ids) == 6
        body = completion.token_ids[:-1] if stopped else completion.token_ids
        assert completion.text == policy.tokenizer.decode(body, skip_special_tokens=True)


def test_a_policy_without_eos_runs_to_the_limit(engine, policy):
    policy.tokenizer.eos_token = None
    policy.model.generation_config.eos_token_id = None
    engine.sync(policy)
    completions = flat(engine.generate(PROMPTS, Sampling(n=4, max_tokens=40)))
    assert {len(completion.token_ids) for completion in completions} == {40}
    assert {completion.finish_reason for completion in completions} == {"length"}


def test_a_generation_config_does_not_leak_into_rollouts(engine, policy):
    """verl#7270, ART#140: penalties and temperatures that a model brings are not those that were asked for."""
    sampling = Sampling(n=4, max_tokens=12, seed=1)
    engine.sync(policy)
    before = tokens(engine.generate(PROMPTS, sampling))
    for name, value in (("repetition_penalty", 1.5), ("top_k", 2), ("temperature", 0.1), ("do_sample", True)):
        setattr(policy.model.generation_config, name, value)
    engine.sync(policy)
    assert tokens(engine.generate(PROMPTS, sampling)) == before


def test_rows_of_the_embedding_without_a_token_are_drawn_and_are_no_text(engine, policy):
    """NeMo-RL#237: Qwen's models have more rows than their tokenizers have tokens."""
    engine.sync(policy)
    completions = flat(engine.generate(PROMPTS, Sampling(n=40, temperature=2.0, max_tokens=20, seed=1)))
    spare = {i for completion in completions for i in completion.token_ids if i >= len(policy.tokenizer)}
    assert spare
    for completion in completions:
        ids = completion.token_ids[:-1] if completion.finish_reason == "stop" else completion.token_ids
        said = [i for i in ids if i not in spare]
        assert completion.text == policy.tokenizer.decode(said, skip_special_tokens=True)


def test_weights_are_a_copy_until_the_next_sync(engine, policy):
    engine.sync(policy)
    before = tokens(engine.generate(PROMPTS, GREEDY))
    move(policy, by=0.3)
    assert tokens(engine.generate(PROMPTS, GREEDY)) == before
    with pytest.raises(RuntimeError, match=r"differ from the policy's by .* stale"):
        engine.verify(policy)
    engine.sync(policy)
    after = engine.generate(PROMPTS, GREEDY)
    assert tokens(after) != before  # also: no prompt was read from a cache of the old weights
    assert_samples_from(policy, after)


def test_unicode_in_and_out(engine, policy):
    engine.sync(policy)
    prompts = [Prompt(user=text) for text in ("naïve 🙂 \u202e", "\ud800", "数学" * 20, "\x00", "<|im_end|>")]
    groups = engine.generate(prompts, Sampling(n=4, max_tokens=20, seed=9))
    assert [group.prompt for group in groups] == prompts
    assert all(isinstance(completion.text, str) for completion in flat(groups))
    assert_samples_from(policy, groups)


def test_errors_name_the_prompt_and_the_limit(engine, policy):
    engine.sync(policy)
    with pytest.raises(ValueError, match=r"prompt 1 has \d+ tokens, but the model's context is 256"):
        engine.generate([PROMPTS[0], Prompt(user="number " * 200)], Sampling(max_tokens=5))
    policy.tokenizer.chat_template = "{{ messages[0].content }}"
    with pytest.raises(ValueError, match="prompt 0 is empty"):
        engine.generate([Prompt(user="")], Sampling(max_tokens=5))


def test_the_context_bounds_the_response(engine, policy):
    policy.tokenizer.eos_token = None
    policy.model.generation_config.eos_token_id = None
    engine.sync(policy)
    [group] = engine.generate([Prompt(user="x" * 180)], Sampling(n=2, max_tokens=1000))
    for completion in group.completions:
        assert len(group.prompt_ids) + len(completion.token_ids) == 256
        assert completion.finish_reason == "length"


def test_progress_ends_with_everything(engine, policy):
    engine.sync(policy)
    seen: list[tuple[int, ...]] = []
    groups = engine.generate(PROMPTS, Sampling(n=3, max_tokens=4), progress=lambda *told: seen.append(told))
    assert seen[-1] == (9, 9, sum(len(row.token_ids) for group in groups for row in group.completions))


def test_adapters_are_drawn_from_and_the_policy_is_left_alone(engine, policy):
    """The last test of the shared engine: with room for adapters vLLM is another one, and slow to start."""
    config = LoraConfig(r=4, lora_alpha=8, lora_dropout=0.5, target_modules=["q_proj", "o_proj", "down_proj"])
    adapted = Policy(model=get_peft_model(policy.model, config).train(), tokenizer=policy.tokenizer)
    with torch.no_grad():
        for name, parameter in adapted.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    before = {name: tensor.clone() for name, tensor in adapted.model.state_dict().items()}
    engine.sync(adapted)
    assert adapted.model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in adapted.model.state_dict().items())
    groups = engine.generate(PROMPTS[:1], Sampling(max_tokens=20, seed=2))
    adapted.model.eval()
    assert_samples_from(adapted, groups)


@pytest.mark.parametrize("make", [embedded, pytest.param(vllm, marks=pytest.mark.vllm)])
def test_a_closed_engine_can_be_synced_again(make, policy):
    engine = make()
    engine.sync(policy)
    before = tokens(engine.generate(PROMPTS, GREEDY))
    engine.close()
    with pytest.raises(RuntimeError, match="call sync"):
        engine.generate(PROMPTS, GREEDY)
    engine.sync(policy)
    assert tokens(engine.generate(PROMPTS, GREEDY)) == before
    engine.close()
