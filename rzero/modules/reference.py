"""The weights a phase started from, for the KL term.

With LoRA no second model is needed: they are the base without adapters, or with those of the phase before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule

from rzero.adapters import REFERENCE, keep_as_reference
from rzero.policy import Policy
from rzero.processes.ranks import Ranks
from rzero.sharding import shard

if TYPE_CHECKING:
    from peft import PeftModel  # slow to import, needed only with adapters

Fill: TypeAlias = Callable[[nn.Module], None]
"""Gives a module weights where it has none."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class FrozenCopy:
    """Reference weights in a model of their own (full fine-tuning)."""

    model: nn.Module

    def shard(self, mesh: DeviceMesh, *, fill: Fill | None = None) -> None:
        """Splits the weights over ranks, as the policy's are."""
        shard(self.model, mesh, fill=fill)

    def move(self, device: torch.device) -> None:
        """Puts the weights where the policy's are; split ones are there."""
        if not isinstance(self.model, FSDPModule):
            self.model.to(device)

    @contextmanager
    def active(self) -> Iterator[nn.Module]:
        """The model to ask while the context lasts."""
        yield self.model


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class AdaptersOff:
    """Reference weights as the policy's own model without its adapters (LoRA)."""

    model: PeftModel

    def shard(self, mesh: DeviceMesh, *, fill: Fill | None = None) -> None:
        """Nothing: the weights are the policy's, and split with them."""

    def move(self, device: torch.device) -> None:
        """Nothing: the weights are where the policy's are."""

    @contextmanager
    def active(self) -> Iterator[nn.Module]:
        """The policy's model with its adapters off while the context lasts."""
        trained = _trained(self.model)
        with self.model.disable_adapter():
            _keep_trained(self.model, trained)
            yield self.model


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class FrozenAdapters:
    """Reference weights as the policy's own model with the adapters that it started the phase with (LoRA)."""

    model: PeftModel

    def shard(self, mesh: DeviceMesh, *, fill: Fill | None = None) -> None:
        """Nothing: the adapters are in the policy's model, and split with it."""

    def move(self, device: torch.device) -> None:
        """Nothing: the adapters are in the policy's model."""

    @contextmanager
    def active(self) -> Iterator[nn.Module]:
        """The policy's model with the frozen adapters in place of the trained ones while the context lasts."""
        trained, [active] = _trained(self.model), self.model.active_adapters
        self.model.set_adapter(REFERENCE)
        _keep_trained(self.model, trained)
        try:
            yield self.model
        finally:
            self.model.set_adapter(active)
            _keep_trained(self.model, trained)


Reference = FrozenCopy | AdaptersOff | FrozenAdapters

_ALONE = Ranks()


def reference_of(policy: Policy, *, ranks: Ranks = _ALONE) -> Reference:
    """The weights as they are now, on all ranks those of the first. With LoRA no second model is made.

    Adapters that do nothing yet are switched off; those that go on from an earlier phase are kept as they are now
    beside the ones that are trained. Raises ValueError when that has been done before. Every rank calls this.
    """
    if not hasattr(policy.model, "peft_config"):
        return FrozenCopy(model=policy.copy().model)
    from peft import PeftModel  # slow to import, needed only with adapters

    assert isinstance(policy.model, PeftModel)
    if REFERENCE in policy.model.peft_config:
        raise ValueError("this policy has a reference in it already")
    if not ranks.shared(_adapted)(policy.model):
        return AdaptersOff(model=policy.model)
    keep_as_reference(policy.model)
    return FrozenAdapters(model=policy.model)


def _adapted(model: nn.Module) -> bool:
    return any(bool(p.any()) for name, p in model.named_parameters() if "lora_B" in name)


def _trained(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def _keep_trained(model: nn.Module, trained: set[str]) -> None:
    """PEFT freezes the adapters that it switches off, and FSDP2 remembers for good whether a parameter needed a
    gradient when it was first gathered, which may be now.
    """
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)
