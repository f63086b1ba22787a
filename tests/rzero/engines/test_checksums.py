"""What checksums of vLLM say about the weights of a sync: replicas that differ, kept the last ones, or cannot say."""

from __future__ import annotations

import hashlib
import logging

import pytest
import torch

from rzero.engines.verification import Checksums, fingerprinted
from rzero.engines.vllm.servers import VllmServers
from rzero.engines.vllm.snapshot import serving_parts
from rzero.gathering import take_part
from tests.rzero.engines.scripted_server import serving
from tests.rzero.engines.test_vllm_server import SETTINGS

NOTHING = hashlib.sha256().hexdigest()
FIRST = {"norm": 1, "embed": 2, "q_proj": 3, "k_proj": 4}
"""What was given: fingerprints."""
SAID = {"tp0:norm": "a", "tp0:embed": "b", "tp1:norm": "a", "tp1:embed": "c", "tp0:qk_proj": "d"}
"""What a replica of two workers says of it; the two projections are one tensor there."""


def checked(*, given: dict[str, int], said: dict[str, str]) -> None:
    """`FIRST`, then one more sync."""
    checksums = Checksums()
    checksums.check(FIRST, {"replica 0": SAID})
    checksums.check(FIRST | given, {"replica 0": SAID | said})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, {}),  # nothing was learned
        ({"norm": 5}, {"tp0:norm": "x", "tp1:norm": "x"}),
        ({"embed": 5}, {"tp1:embed": "x"}),  # in the half that the second worker has
        ({"k_proj": 5}, {"tp0:qk_proj": "x"}),
        ({}, {"tp0:norm": "x"}),  # fingerprints may be equal by chance
    ],
)
def test_checksums_that_go_with_the_weights(given, said):
    checked(given=given, said=said)


@pytest.mark.parametrize(
    ("given", "said", "named"),
    [
        ({"norm": 5}, {}, "norm"),
        ({"norm": 5, "embed": 6}, {"tp0:norm": "x", "tp1:norm": "x"}, "embed"),
        ({"k_proj": 5}, {}, "k_proj"),  # it has no checksum of its own, but none has changed
    ],
)
def test_weights_of_the_sync_before_are_named(given, said, named):
    with pytest.raises(RuntimeError, match=rf"^replica 0 still has weights of the sync before: 1 .* of {named}$"):
        checked(given=given, said=said)


def test_what_vllm_has_packed_away_cannot_be_said_to_be_stale():
    checked(given={"norm": 5}, said={"tp0:norm": NOTHING, "tp1:norm": NOTHING})
    checked(given={"k_proj": 5}, said={"tp0:qk_proj": NOTHING})


def test_replicas_have_to_be_equal():
    with pytest.raises(
        RuntimeError, match=r"^replica 1 has other weights than replica 0: 1 checksums differ.*tp0:norm"
    ):
        Checksums().check(FIRST, {"replica 0": SAID, "replica 1": SAID | {"tp0:norm": "x"}})


def test_an_update_that_no_probe_sees_in_bf16_changes_fingerprints(make_policy):
    policy = make_policy("qwen3")
    before, after = dict[str, int](), dict[str, int]()
    take_part(fingerprinted(serving_parts(policy, dtype=torch.bfloat16), before))
    with torch.no_grad():
        weight = policy.model.model.layers[1].mlp.up_proj.weight
        weight[3, 4] += 2 * torch.finfo(torch.bfloat16).eps * weight[3, 4].abs()
    take_part(fingerprinted(serving_parts(policy, dtype=torch.bfloat16), after))
    assert {name for name in after if after[name] != before[name]} == {"model.layers.1.mlp.up_proj.weight"}


def test_servers_are_asked_after_a_sync(make_policy, caplog):
    policy = make_policy("qwen3_tied")
    with serving() as (one, first), serving() as (two, second):
        host = VllmServers(**{**SETTINGS, "urls": [one, two]}).start(max_rows=4, max_tokens=None)
        snapshot = host.take(policy, dtype=torch.bfloat16)
        host.load(snapshot)
        host.check(snapshot)
        assert ("/weight_checker", {"action": "checksum"}) in first.asked
        with torch.no_grad():
            policy.model.model.norm.weight.mul_(1.1)
        later = host.take(policy, dtype=torch.bfloat16)
        host.load(later)
        with pytest.raises(
            RuntimeError, match=r"replica 0 .* and vLLM replica 1 .* still has weights of the sync before"
        ):
            host.check(later)  # the stubs say what they always say
        second.checksums = {"model.norm.weight": "other"}
        with pytest.raises(RuntimeError, match=r"vLLM replica 1 .* has other weights than vLLM replica 0"):
            host.check(later)
        first.checksums = second.checksums
        host.check(later)
        first.before = second.before = lambda path: 404 if path == "/weight_checker" else None
        with caplog.at_level(logging.WARNING):
            host.check(later)
        [said] = caplog.messages
        assert f"replica 0 ({one})" in said
        assert "no /weight_checker there" in said
        host.shut_down()


@pytest.mark.vllm
def test_vllm_says_which_weights_it_has(served_engine, make_policy, monkeypatch):
    """In bf16 a sync that never arrives passes the probe, and is caught."""
    policy = make_policy("qwen3_tied", hidden_size=64, head_dim=32)
    monkeypatch.setattr(served_engine, "_dtype", torch.bfloat16)
    served_engine.sync(policy)
    [replica] = served_engine._host._replicas
    before = replica.checksums()
    served_engine.sync(policy)
    assert replica.checksums() == before
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.mul_(1 + 2 * torch.finfo(torch.bfloat16).eps)
    served_engine.sync(policy)
    assert replica.checksums() != before
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.mul_(1 + 2 * torch.finfo(torch.bfloat16).eps)
    with monkeypatch.context() as lost:
        lost.setattr(type(replica), "load", lambda self, directory: None)
        with pytest.raises(RuntimeError, match="still has weights of the sync before"):
            served_engine.sync(policy)
    served_engine.close()


@pytest.mark.vllm
def test_vllm_in_this_process_says_which_weights_it_has(make_policy, monkeypatch):
    from rzero.engines.vllm import in_process
    from tests.rzero.engines.test_vllm import make_engine

    policy, engine = make_policy("qwen3_tied", hidden_size=64, head_dim=32), make_engine()
    engine.sync(policy)
    with torch.no_grad():
        policy.model.model.norm.weight[5] *= 1.0001
    monkeypatch.setattr(in_process, "_reload", lambda llm, weights: None)
    with pytest.raises(RuntimeError, match="in this process still has weights of the sync before: 1 tensors changed"):
        engine.sync(policy)
    engine.close()
