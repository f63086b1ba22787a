"""The peak of tensors on one device of N, by running the code of a phase on fake tensors at the real shapes.

What runs is the run's own: adapters, `shard`, `reference_of`, `Update` (scores, loss, backward, clipping, steps of the
optimiser), `model_parts` as a sync gathers them and `Policy.save`. Tensors have no storage, the process group is
torch's fake one with this process as its rank 0, and every rank is taken to have the same rows. The CPU's autocast
stands in for CUDA's. Not in it: the allocator's fragmentation, CUDA contexts, NCCL's buffers, and vLLM, which `plan`
adds.

Layers are identical, and the bytes at a moment (the forward pass is in the last layer, the backward pass in the second)
grow by the same amount with each. So two shallow models are simulated and every moment is extrapolated to the depth
asked for. A test compares that with the real depth at a tiny shape; at the paper's shapes (4B with all weights on eight
devices and with adapters on one) the two have been compared once and were equal.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from experiments.planning.fake_tensors import ByteCounter, fake_device, put_on_fake_device
from rzero.adapters import LoraSpec, add_adapters, keep_as_reference, unwrap_adapters
from rzero.gathering import model_parts, take_part
from rzero.grpo import PolicyLoss
from rzero.modules.reference import FrozenAdapters, FrozenCopy, Reference, reference_of
from rzero.modules.settings import GRPOSettings
from rzero.modules.update import Update
from rzero.policy import Policy
from rzero.processes.ranks import Ranks
from rzero.sharding import shard
from rzero.types import Completion, Group, Json, Prompt, RewardBreakdown

SHALLOW = (3, 4)
"""Depths that are simulated; with three layers there are a second and a last but one already."""
_UPDATES = 2  # the optimiser's moments exist from the second on
_PARTS = 2  # micro-batches of an update: gradients of the first are there while the second runs


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A phase to simulate.

    policy: the node of the configuration, with `architecture`. devices: ranks that FSDP2 splits tensors over; 1: none.
    mixed: autocast to bf16. length: tokens of every row, `prompt` of them the prompt's.
    """

    policy: Json
    devices: int
    mixed: bool
    settings: GRPOSettings
    loss: PolicyLoss
    optimizer: Callable[..., torch.optim.Optimizer]
    prompt: int
    length: int


def simulated_peaks(case: Case, *, layers: int | None = None) -> dict[str, float]:
    """Returns the peak of tensors on a device (bytes) at each moment. layers: in place of those of the policy's shape.

    Moments are `update: ...`, `sync` and `save`.
    """
    layers = layers or int(case.policy["architecture"]["num_hidden_layers"])
    if layers <= SHALLOW[1]:
        return {moment: float(peak) for moment, peak in run(case, layers=layers).items()}
    few, more = (run(case, layers=depth) for depth in SHALLOW)
    step = (layers - SHALLOW[0]) / (SHALLOW[1] - SHALLOW[0])
    return {moment: few[moment] + (more[moment] - few[moment]) * step for moment in few}


def run(case: Case, *, layers: int) -> dict[str, int]:
    """Returns the peaks (bytes) by moment of a model of that depth, simulated whole."""
    model = _model(case.policy, layers=layers, keep_adapters=case.loss.needs_reference)
    with _mesh(case.devices) as mesh, fake_device() as counter, warnings.catch_warnings():
        for asked in ("Accessing the data pointer of FakeTensor", "The .grad attribute of a Tensor that is not a leaf"):
            warnings.filterwarnings("ignore", message=asked)  # by copies of the model, and by tensors' descriptions
        counter.at("start")
        put_on_fake_device(model)
        policy = Policy(model=cast(Any, model), tokenizer=cast(Any, None))
        reference = _reference(policy) if case.loss.needs_reference else None
        if mesh is not None:
            shard(model, mesh)
            if reference is not None:
                reference.shard(mesh)
        moments = _Moments(counter)
        moments.watch(model)
        if isinstance(reference, FrozenCopy):
            moments.watch(reference.model)
        optimizer = _update(case, model, reference, moments)  # held: its moments are there in a sync too
        counter.at("sync")
        take_part(model_parts(policy.model, dtype=torch.bfloat16 if case.mixed else None))
        counter.at("save")
        policy.save(Path("nowhere"), write=False)
        counter.at()
        del optimizer
    return {moment: peak for moment, peak in counter.peaks.items() if moment != "start"}


def _model(policy: Json, *, layers: int, keep_adapters: bool) -> nn.Module:
    """A model of that shape and depth on the device `meta`, made as `load_policy` makes it, in training mode.

    keep_adapters: there are those of an earlier phase as well, as in every iteration but the first.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(**{**policy["architecture"], "num_hidden_layers": layers}),
            dtype=getattr(torch, policy["dtype"]),
            attn_implementation=policy["attn_implementation"],
        )
        if policy["gradient_checkpointing"]:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        if policy["lora"] is not None:
            model = add_adapters(model, LoraSpec(**policy["lora"]))
            if keep_adapters:
                keep_as_reference(model)
    trained: nn.Module = model.train()
    return trained


def _reference(policy: Policy) -> Reference:
    from peft import PeftModel  # slow to import, needed only with adapters

    return FrozenAdapters(model=policy.model) if isinstance(policy.model, PeftModel) else reference_of(policy)


class _Alike(Ranks):
    """Rank 0 of several that all have what it has."""

    def gather(self, value: Any) -> list[Any]:
        return [value] * self.size


def _mesh(devices: int) -> AbstractContextManager[DeviceMesh | None]:
    return nullcontext() if devices == 1 else _fake_group(devices)


@contextmanager
def _fake_group(devices: int) -> Iterator[DeviceMesh]:
    from torch.testing._internal.distributed.fake_pg import FakeStore  # registers the back end too

    dist.init_process_group("fake", rank=0, world_size=devices, store=FakeStore())
    try:
        yield init_device_mesh("cpu", (devices,))
    finally:
        dist.destroy_process_group()


class _Moments:
    """Names the moments of an update, from where its passes are: at a layer's beginning, in the head, in a step."""

    def __init__(self, counter: ByteCounter) -> None:
        self._counter, self._backward = counter, False

    def watch(self, model: nn.Module) -> None:
        """Lets a model say when it begins, when the layers at its ends begin, and when the head's turn has come.

        With gradient checkpointing a layer begins once more in the backward pass.
        """
        layers = unwrap_adapters(model).get_decoder().layers
        ends = {"first": 0, "second": 1, "last but one": len(layers) - 2, "last": len(layers) - 1}
        model.register_forward_pre_hook(lambda *_: self._in_pass("embedding"), prepend=True)
        for number, layer in enumerate(layers):
            places = [f"{name} layer" for name, place in ends.items() if place == number]
            layer.register_forward_pre_hook(functools.partial(self._begin_layer, places), prepend=True)
        layers[-1].register_forward_hook(lambda *_: None if self._backward else self._in_pass("head"))

    def backward(self, loss: Tensor) -> None:
        """The backward pass."""
        self._backward = True
        self._in_pass("head")
        loss.backward()
        self._backward = False
        self._counter.at("update: clipping")

    def step(self, *_: object) -> None:
        """A step of the optimiser begins."""
        self._counter.at("update: optimiser")

    def _begin_layer(self, places: Sequence[str], *_: object) -> None:
        self._in_pass(*places)

    def _in_pass(self, *places: str) -> None:
        name = "backward" if self._backward else "forward" if torch.is_grad_enabled() else "scores"
        self._counter.at(*(f"update: {name}, {place}" for place in places))


def _update(case: Case, model: nn.Module, reference: Reference | None, moments: _Moments) -> torch.optim.Optimizer:
    """Takes two steps over micro-batches that fill their budget as far as rows do, and returns the optimiser."""
    optimizer = case.optimizer([parameter for parameter in model.parameters() if parameter.requires_grad])
    for group in optimizer.param_groups:
        group["foreach"] = True  # torch's default on GPUs
    optimizer.register_step_pre_hook(moments.step)
    ranks = _Alike(rank=0, size=case.devices)
    rows = case.settings.max_tokens_per_microbatch // case.length
    groups = [_group(case)] * (rows * _PARTS * _UPDATES * ranks.size)
    update = Update(
        model=model,
        reference=reference,
        wrapper=None,
        optimizer=cast(Any, optimizer),
        backward=moments.backward,
        settings=replace(case.settings, updates_per_rollout=_UPDATES),
        loss=case.loss,
        ranks=ranks,
        pad_id=0,
        device=torch.device("cpu"),
    )
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=case.mixed, cache_enabled=False):
        update(groups, [[RewardBreakdown(total=float(index % 2), parts={})] for index in range(len(groups))])
    return optimizer


def _group(case: Case) -> Group:
    length = case.length - case.prompt
    answer = Completion(text="", token_ids=(0,) * length, logprobs=(0.0,) * length, finish_reason="stop")
    return Group(prompt=Prompt(user=""), prompt_ids=(0,) * case.prompt, completions=(answer,))
