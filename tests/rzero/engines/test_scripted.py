import pytest

from rzero.types import Prompt, Sampling
from tests.scripted import ScriptedEngine


def test_replies_from_a_mapping_go_round():
    engine = ScriptedEngine({"a": ["one", "two"], "b": "three"})
    groups = engine.generate([Prompt(user="b"), Prompt(user="a")], Sampling(n=3, max_tokens=10))
    assert [[c.text for c in group.completions] for group in groups] == [["three"] * 3, ["one", "two", "one"]]
    assert groups[1].completions[0].token_ids == tuple(b"one")
    assert groups[1].completions[0].logprobs == (0.0, 0.0, 0.0)
    with pytest.raises(KeyError, match="no reply to 'c'"):
        engine.generate([Prompt(user="c")], Sampling(max_tokens=10))
    assert len(engine.calls) == 2


def test_replies_from_a_function_and_the_length_limit():
    engine = ScriptedEngine(lambda prompt, sample: f"{prompt.user}{sample}")
    completions = engine.generate([Prompt(user="abc")], Sampling(n=2, max_tokens=3))[0].completions
    assert [c.text for c in completions] == ["abc", "abc"]
    assert {c.finish_reason for c in completions} == {"length"}


def test_after_sync_tokens_are_the_policys(make_policy):
    policy = make_policy("qwen3")
    engine = ScriptedEngine({"a": "What is 3?"})
    engine.sync(policy)
    completion = engine.generate([Prompt(user="a")], Sampling(max_tokens=50))[0].completions[0]
    assert completion.token_ids[-1] == policy.tokenizer.eos_token_id
    assert policy.tokenizer.decode(completion.token_ids[:-1]) == completion.text == "What is 3?"
    assert engine.synced == [policy]
    engine.close()
