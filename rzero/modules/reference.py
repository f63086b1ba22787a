"""The weights a phase started from, for the KL term: a frozen copy, or with LoRA the model without its adapters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule

from rzero.policy import Policy
from rzero.sharding import shard

if TYPE_CHECKING:
    from peft import PeftModel  # slow to import, needed only with adapters


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class FrozenCopy:
    """Reference weights in a model of their own (full fine-tuning)."""

    model: nn.Module

    def shard(self, mesh: DeviceMesh) -> None:
        """Splits the weights over ranks, as the policy's are."""
        shard(self.model, mesh)

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

    def shard(self, mesh: DeviceMesh) -> None:
        """Nothing: the weights are the policy's, and split with them."""

    def move(self, device: torch.device) -> None:
        """Nothing: the weights are where the policy's are."""

    @contextmanager
    def active(self) -> Iterator[nn.Module]:
        """The policy's model with its adapters off while the context lasts."""
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        with self.model.disable_adapter():
            # PEFT freezes the adapters besides, and FSDP2 remembers for good whether a parameter needed a gradient when
            # it was first gathered, which may be now.
            for parameter in trained:
                parameter.requires_grad_(True)
            yield self.model


Reference = FrozenCopy | AdaptersOff


def reference_of(policy: Policy) -> Reference:
    """The weights as they are now. With LoRA no second model is made.

    Every phase adds fresh adapters, which do nothing at first, to the *merged* weights of the phase before. So the
    model without its adapters is the start of the phase, in every iteration. Adapters that already do something are
    refused with ValueError.
    """
    if not hasattr(policy.model, "peft_config"):
        return FrozenCopy(model=policy.copy().model)
    from peft import PeftModel  # slow to import, needed only with adapters

    assert isinstance(policy.model, PeftModel)
    if any(bool(p.any()) for name, p in policy.model.named_parameters() if "lora_B" in name):
        raise ValueError("these adapters have been trained: switching them off does not give the current weights")
    return AdaptersOff(model=policy.model)
