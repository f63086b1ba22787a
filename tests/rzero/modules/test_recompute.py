"""Layers that are run again in the backward pass: what they keep until then, and that they learn the same."""

from __future__ import annotations

import functools
import warnings

import pytest
import torch

from rzero.grpo import positive_advantages
from rzero.modules.fit import fit
from rzero.modules.reference import reference_of
from rzero.policy import load_policy
from rzero.processes.ranks import Ranks
from tests.rzero.processes.two_processes import LORA, make_loss, make_module, make_trainer, settings

SGD = functools.partial(torch.optim.SGD, lr=0.1)


def trained(directory, *, again, lora=None, reference=True):
    """A policy after a phase in which every warning but Lightning's own is an error, and how its first layer ran."""
    policy = load_policy(
        directory, dtype="float32", attn_implementation="sdpa", lora=lora, gradient_checkpointing=again
    )
    changes = {"reference": reference_of(policy)} if reference else {"loss": make_loss(kl_coefficient=0.0)}
    module = make_module(
        policy, role="solver", ranks=Ranks(), optimizer=SGD,
        settings=settings(advantage=positive_advantages, share_prompts=True), **changes,
    )  # fmt: skip
    graph = []
    layer = next(part for name, part in policy.model.named_modules() if name.endswith("layers.0.mlp"))
    layer.register_forward_hook(lambda *_: graph.append(torch.is_grad_enabled()) if layer.training else None)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        fit(module, make_trainer=make_trainer, after_step=lambda metrics: None, directory=directory)
    return policy, graph


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("family", ["qwen2", "gemma3"])
def test_the_same_is_learned_to_the_bit(make_policy, tmp_path, family, lora):
    make_policy(family).save(tmp_path)
    kept, _ = trained(tmp_path, again=False, lora=lora)
    again, _ = trained(tmp_path, again=True, lora=lora)
    assert again.weights_hash() == kept.weights_hash() != make_policy(family).weights_hash()


def test_a_process_that_trains_alone_keeps_no_graph_of_a_layer(make_policy, tmp_path):
    """The forward pass of each micro-batch runs without one, the backward pass makes it."""
    make_policy("qwen2").save(tmp_path)
    _, graph = trained(tmp_path, again=True, lora=LORA, reference=False)
    assert graph[0] is False
    assert graph.count(True) == graph.count(False) > 0
    _, graph = trained(tmp_path, again=False, lora=LORA, reference=False)
    assert set(graph) == {True}


def test_among_other_processes_layers_are_run_again_in_the_default_way(make_policy, tmp_path):
    make_policy("qwen2").save(tmp_path)
    policy = load_policy(tmp_path, dtype="float32", attn_implementation="sdpa", lora=LORA, gradient_checkpointing=True)
    module = make_module(policy, role="solver", ranks=Ranks(), optimizer=SGD, settings=settings())
    module.ranks = Ranks(rank=1, size=2)
    layer = next(part for name, part in policy.model.named_modules() if name.endswith("layers.0"))
    before = layer._gradient_checkpointing_func.keywords
    module.on_fit_start()
    assert layer._gradient_checkpointing_func.keywords == before == {"use_reentrant": False}
