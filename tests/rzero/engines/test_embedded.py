"""The embedded engine against transformers, and the promises of `RolloutEngine`."""

import copy
import itertools
from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, get_peft_model

from rzero.engines.embedded import EmbeddedEngine
from rzero.engines.embedded.fused import FusedDecoder
from rzero.engines.embedded.generic import GenericDecoder
from rzero.policy import Policy
from rzero.types import Prompt, Sampling
from tests.rzero.engines.embedded_engine import FAMILIES, PROMPTS, SETTINGS, flat, make_engine, tokens


def reference_logprobs(policy, group, completion, *, temperature=1.0):
    ids = torch.tensor([[*group.prompt_ids, *completion.token_ids]])
    with torch.no_grad():
        logits_TV = policy.model(input_ids=ids).logits[0, len(group.prompt_ids) - 1 : -1] / temperature
    return logits_TV.log_softmax(-1).gather(1, torch.tensor(completion.token_ids)[:, None]).squeeze(1)


@pytest.mark.parametrize("decoder", ["auto", "generic"])
@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_equals_transformers_generate(make_policy, family, decoder):
    policy = make_policy(family)
    groups = make_engine(policy, decoder=decoder).generate(PROMPTS, Sampling(temperature=0, max_tokens=40))
    for group in groups:
        ids = torch.tensor([group.prompt_ids])
        expected = policy.model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=40)[
            0, len(group.prompt_ids) :
        ]
        assert list(group.completions[0].token_ids) == expected.tolist()


@pytest.mark.parametrize("decoder", ["auto", "generic"])
@pytest.mark.parametrize("family", [*FAMILIES, "gpt2"])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_are_those_of_the_model(make_policy, family, decoder, temperature):
    policy = make_policy(family)
    sampling = Sampling(n=3, temperature=temperature, top_p=0.9, max_tokens=40, seed=1)
    for group in make_engine(policy, decoder=decoder).generate(PROMPTS, sampling):
        for completion in group.completions:
            expected = reference_logprobs(policy, group, completion, temperature=temperature)
            assert torch.allclose(torch.tensor(completion.logprobs), expected, atol=1e-4)


def test_the_decoder_is_chosen_by_architecture(make_policy):
    assert isinstance(make_engine(make_policy("gemma3"))._decoder.decoder, FusedDecoder)
    assert isinstance(make_engine(make_policy("gpt2"))._decoder.decoder, GenericDecoder)
    with pytest.raises(ValueError, match="decoder=fused cannot run this model: architecture gpt2"):
        make_engine(make_policy("gpt2"), decoder="fused")
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    assert isinstance(make_engine(make_policy("llama", rope_parameters=rope))._decoder.decoder, GenericDecoder)


def test_scaled_rotary_embeddings(make_policy):
    rope = {
        "rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4, "original_max_position_embeddings": 64,
        "attention_factor": 1.3,
    }  # fmt: skip
    policy = make_policy("qwen3", rope_parameters=rope)
    engine = make_engine(policy)
    assert isinstance(engine._decoder.decoder, FusedDecoder)
    group = engine.generate(PROMPTS[:1], Sampling(max_tokens=20))[0]
    expected = reference_logprobs(policy, group, group.completions[0])
    assert torch.allclose(torch.tensor(group.completions[0].logprobs), expected, atol=1e-4)


def test_groups_come_in_the_order_of_the_prompts(make_policy):
    engine = make_engine(make_policy("qwen3"))
    groups = engine.generate(PROMPTS, Sampling(n=4, max_tokens=6))
    assert [group.prompt for group in groups] == PROMPTS
    assert [len(group.completions) for group in groups] == [4, 4, 4]
    backwards = engine.generate(PROMPTS[::-1], Sampling(n=4, temperature=0, max_tokens=6))
    assert tokens(backwards)[::-1] == tokens(engine.generate(PROMPTS, Sampling(n=4, temperature=0, max_tokens=6)))
    assert engine.generate([], Sampling(max_tokens=6)) == []


@pytest.mark.parametrize("decoder", ["auto", "generic"])
@pytest.mark.parametrize("truncation", [{}, {"top_p": 0.8}, {"top_k": 5}])
def test_a_completion_does_not_depend_on_the_batch(make_policy, decoder, truncation):
    policy = make_policy("qwen3")
    sampling = Sampling(n=6, max_tokens=30, seed=5, **truncation)
    wide = make_engine(policy, decoder=decoder).generate(PROMPTS, sampling)
    narrow = make_engine(policy, decoder=decoder, max_rows=7, compact_below=1.0).generate(PROMPTS, sampling)
    assert tokens(wide) == tokens(narrow)
    fewer = make_engine(policy, decoder=decoder).generate(PROMPTS[:2], replace(sampling, n=2))
    assert tokens(fewer) == [group[:2] for group in tokens(wide)[:2]]


def test_seeds(make_policy):
    engine = make_engine(make_policy("qwen3"))
    sampling = Sampling(n=4, max_tokens=10, seed=1)
    first = engine.generate(PROMPTS[:1] * 2, sampling)
    assert first == engine.generate(PROMPTS[:1] * 2, sampling)
    drawn = [ids for group in tokens(first) for ids in group]
    assert len(set(drawn)) == 8  # equal prompts and all samples draw their own numbers
    assert tokens(first) != tokens(engine.generate(PROMPTS[:1] * 2, replace(sampling, seed=2)))
    engine.generate(PROMPTS, replace(sampling, seed=-1))


def test_the_global_generator_is_left_alone(make_policy):
    engine = make_engine(make_policy("qwen3"))
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    engine.generate(PROMPTS, Sampling(max_tokens=5))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("family", ["qwen3", "gpt2"])
def test_eos_ends_a_response_and_belongs_to_it(make_policy, family):
    policy = make_policy(family)
    policy.model.generation_config.eos_token_id = list(range(240, 310))
    ends = set(policy.eos_ids())
    completions = flat(make_engine(policy).generate(PROMPTS, Sampling(n=20, max_tokens=6, seed=3)))
    assert {completion.finish_reason for completion in completions} == {"stop", "length"}
    for completion in completions:
        assert not ends & set(completion.token_ids[:-1])
        assert len(completion.token_ids) == len(completion.logprobs) <= 6
        stopped = completion.token_ids[-1] in ends
        assert completion.finish_reason == ("stop" if stopped else "length")
        assert stopped or len(completion.token_ids) == 6
        body = completion.token_ids[:-1] if stopped else completion.token_ids
        assert completion.text == policy.tokenizer.decode(body, skip_special_tokens=True)


def test_compaction_changes_nothing_but_speed(make_policy):
    policy = make_policy("qwen3")
    policy.model.generation_config.eos_token_id = list(range(240, 310))
    sampling = Sampling(n=20, max_tokens=40, seed=3)
    eager = make_engine(policy, compact_below=1.0).generate(PROMPTS, sampling)
    lazy = make_engine(policy, compact_below=0.01).generate(PROMPTS, sampling)
    assert tokens(eager) == tokens(lazy)
    assert len({len(completion.token_ids) for completion in flat(eager)}) > 5


def test_a_policy_without_eos_runs_to_the_limit(make_policy):
    policy = make_policy("qwen3")
    policy.tokenizer.eos_token = None
    policy.model.generation_config.eos_token_id = None
    assert policy.eos_ids() == ()
    completions = flat(make_engine(policy).generate(PROMPTS, Sampling(max_tokens=5)))
    assert [completion.finish_reason for completion in completions] == ["length"] * 3


def test_weights_are_a_copy_until_the_next_sync(make_policy):
    policy = make_policy("qwen3")
    for decoder in ("auto", "generic"):
        engine = make_engine(policy, decoder=decoder)
        before = engine.generate(PROMPTS, Sampling(temperature=0, max_tokens=10))
        with torch.no_grad():
            for parameter in policy.model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
        assert engine.generate(PROMPTS, Sampling(temperature=0, max_tokens=10)) == before
        with pytest.raises(RuntimeError, match=r"differ from the policy's by .* stale"):
            engine.verify(policy)
        engine.sync(policy)
        after = engine.generate(PROMPTS, Sampling(temperature=0, max_tokens=10))
        assert after != before
        expected = reference_logprobs(policy, after[0], after[0].completions[0])
        assert torch.allclose(torch.tensor(after[0].completions[0].logprobs), expected, atol=1e-4)


def test_the_check_after_sync_grants_rounding_in_proportion_to_the_largest_log_prob(make_policy, monkeypatch):
    """Peaked models (Gemma) have log-probs near -50 nats, where fp32 itself is off by more than 1e-4."""
    policy = make_policy("qwen3")
    with torch.no_grad():
        policy.model.lm_head.weight.mul_(3.0)
    engine = make_engine(policy)
    probe = engine._decoder._probe
    for error, right in ((1e-5, True), (1e-4, False)):

        def probe_with_error(*asked, error=error, **more):
            return [logp + error * logp for logp in probe(*asked, **more)]

        monkeypatch.setattr(engine._decoder, "_probe", probe_with_error)
        if right:
            engine.verify(policy)
        else:
            with pytest.raises(RuntimeError, match="differ from the policy's"):
                engine.verify(policy)


@pytest.mark.parametrize("decoder", ["auto", "generic"])
@pytest.mark.parametrize("family", ["qwen3", "qwen3_tied"])
def test_adapters_are_merged_into_the_engine_only(make_policy, family, decoder):
    plain = make_policy(family)
    config = LoraConfig(r=2, lora_alpha=8, lora_dropout=0.5, target_modules=["q_proj", "o_proj", "down_proj"])
    policy = Policy(model=get_peft_model(plain.model, config).train(), tokenizer=plain.tokenizer)
    engine = make_engine(policy, decoder=decoder)
    with torch.no_grad():
        for name, parameter in policy.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    before = {name: tensor.clone() for name, tensor in policy.model.state_dict().items()}
    engine.sync(policy)
    assert policy.model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in policy.model.state_dict().items())
    group = engine.generate(PROMPTS[:1], Sampling(max_tokens=20, seed=2))[0]
    policy.model.eval()
    expected = reference_logprobs(policy, group, group.completions[0])
    assert torch.allclose(torch.tensor(group.completions[0].logprobs), expected, atol=1e-4)


def test_one_engine_serves_policies_of_different_architecture_in_turn(make_policy):
    first, second = make_policy("qwen3"), make_policy("llama", hidden_size=16)
    engine = make_engine(first)
    before = engine.generate(PROMPTS, Sampling(max_tokens=5))
    engine.sync(second)
    engine.generate(PROMPTS, Sampling(max_tokens=5))
    engine.sync(first)
    assert engine.generate(PROMPTS, Sampling(max_tokens=5)) == before


def test_unicode_in_and_out(make_policy):
    engine = make_engine(make_policy("qwen3"))
    prompts = [Prompt(user=text) for text in ("naïve 🙂 \u202e", "\ud800", "数学" * 20, "\x00")]
    groups = engine.generate(prompts, Sampling(n=4, max_tokens=20, seed=9))
    assert [group.prompt for group in groups] == prompts
    for completion in flat(groups):
        completion.text.encode()  # no lone surrogates come out


def test_errors_name_the_prompt_and_the_limit(make_policy):
    engine = make_engine(make_policy("qwen3"))
    with pytest.raises(ValueError, match=r"prompt 1 has \d+ tokens, but the model's context is 256"):
        engine.generate([PROMPTS[0], Prompt(user="number " * 200)], Sampling(max_tokens=5))
    empty = make_policy("qwen3")
    empty.tokenizer.chat_template = "{{ messages[0].content }}"
    with pytest.raises(ValueError, match="prompt 0 is empty"):
        make_engine(empty).generate([Prompt(user="")], Sampling(max_tokens=5))
    with pytest.raises(RuntimeError, match="call sync"):
        EmbeddedEngine(**SETTINGS).generate(PROMPTS, Sampling(max_tokens=5))
    engine.close()
    with pytest.raises(RuntimeError, match="call sync"):
        engine.generate(PROMPTS, Sampling(max_tokens=5))


@pytest.mark.parametrize(
    "wrong", [{"max_rows": 0}, {"threads": 0}, {"compact_below": 0.0}, {"compact_below": 1.1}, {"decoder": "quick"}]
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=r"engine\."):
        EmbeddedEngine(**{**SETTINGS, **wrong})


def test_the_context_bounds_the_response(make_policy):
    policy = make_policy("qwen3", max_position_embeddings=40)
    policy.model.generation_config.eos_token_id = None
    policy.tokenizer.eos_token = None
    prompts = [Prompt(user="x"), Prompt(user="xyxyxy")]
    for group in make_engine(policy).generate(prompts, Sampling(n=2, max_tokens=100)):
        for completion in group.completions:
            assert len(group.prompt_ids) + len(completion.token_ids) == 40
            assert completion.finish_reason == "length"


def test_progress_and_threads(make_policy):
    engine = make_engine(make_policy("qwen3"), max_rows=4)
    threads, seen = torch.get_num_threads(), []
    engine.generate(PROMPTS, Sampling(n=3, max_tokens=4), progress=lambda *told: seen.append(told))
    done, total, tokens = zip(*seen, strict=True)
    assert set(total) == {9}
    assert [number for number, _ in itertools.groupby(done)] == [0, 4, 8, 9]  # 4 tokens end each wave of 4 rows
    assert tokens == (4, 8, 12, 16, 20, 24, 28, 32, 33, 34, 35, 36)
    assert torch.get_num_threads() == threads


def test_prompts_are_read_once_per_group(make_policy, monkeypatch):
    engine = make_engine(make_policy("qwen3"))
    read = []
    start = FusedDecoder.start

    def spy(self, prompts, **options):
        read.append(len(prompts))
        return start(self, prompts, **options)

    monkeypatch.setattr(FusedDecoder, "start", spy)
    engine.generate([*PROMPTS, PROMPTS[0]], Sampling(n=10, max_tokens=3))
    assert read == [3]


def rounded(policy: Policy) -> Policy:
    """The same policy in bfloat16."""
    return replace(policy, model=copy.deepcopy(policy.model).bfloat16())


@pytest.mark.parametrize("family", ["qwen3", "gemma3", "gpt2"])
def test_rollouts_in_bfloat16_come_from_the_rounded_policy(make_policy, family):
    """Of a float32 policy that asks for it, and of a bfloat16 one: the sync is accepted, log-probs fit."""
    policy = make_policy(family)
    expected_from = rounded(policy)
    sampling = Sampling(n=3, max_tokens=20, seed=1)
    asked, own = make_engine(policy, dtype="bfloat16"), make_engine(expected_from)
    assert policy.model.dtype is torch.float32
    for engine in (asked, own):
        assert isinstance(engine._decoder.decoder, GenericDecoder)
        assert {weight.dtype for weight in engine._decoder.decoder._model.parameters()} == {torch.bfloat16}
    groups = asked.generate(PROMPTS, sampling)
    assert tokens(groups) == tokens(own.generate(PROMPTS, sampling))
    moved = 0.0
    for group in groups:
        for completion in group.completions:
            found = torch.tensor(completion.logprobs)
            expected = reference_logprobs(expected_from, group, completion).float()
            assert torch.allclose(found, expected, atol=0.15)
            moved = max(moved, float((found - reference_logprobs(policy, group, completion)).abs().max()))
    assert moved > 1e-3, "nothing was rounded: float32 decoders agree to about 1e-6"


def test_a_head_that_was_not_loaded_is_found_in_bfloat16_too(make_policy):
    policy = make_policy("qwen3")
    engine = make_engine(policy, dtype="bfloat16")
    with torch.no_grad():
        policy.model.lm_head.weight.copy_(torch.randn_like(policy.model.lm_head.weight))
    with pytest.raises(RuntimeError, match=r"differ from the policy's by .* stale"):
        engine.verify(policy)


def test_the_fused_decoder_refuses_to_round(make_policy):
    with pytest.raises(ValueError, match=r"decoder=fused cannot run this model: .* decoded in torch.bfloat16"):
        make_engine(make_policy("qwen3"), decoder="fused", dtype="bfloat16")
    with pytest.raises(ValueError, match=r"engine\.dtype must be null or one of .* got 'int4'"):
        make_engine(make_policy("qwen3"), dtype="int4")
