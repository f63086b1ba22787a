"""The weights a phase started from, for the KL term: a frozen copy, or with LoRA the model without its adapters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rzero.policy import Policy


def reference_of(policy: Policy) -> FrozenCopy | AdaptersOff:
    """The weights as they are now. With LoRA no second model is made.

    Every phase adds fresh adapters, which do nothing at first, to the *merged* weights of the phase before. So the
    model without its adapters is the start of the phase, in every round. Adapters that already do something are
    refused with ValueError.
    """
    if not hasattr(policy.model, "peft_config"):
        return FrozenCopy(model=policy.copy().model)
    if any(bool(p.any()) for name, p in policy.model.named_parameters() if "lora_B" in name):
        raise ValueError("these adapters have been trained: switching them off does not give the current weights")
    return AdaptersOff(model=policy.model)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class FrozenCopy:
    """Reference weights in a model of their own (full fine-tuning)."""

    model: Any

    @contextmanager
    def active(self) -> Iterator[Any]:
        """The model to ask while the context lasts."""
        yield self.model


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class AdaptersOff:
    """Reference weights as the policy's own model without its adapters (LoRA)."""

    model: Any

    @contextmanager
    def active(self) -> Iterator[Any]:
        """The policy's model with its adapters off while the context lasts."""
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        with self.model.disable_adapter():
            # PEFT freezes the adapters besides, and FSDP2 remembers for good whether a parameter needed a gradient when
            # it was first gathered, which may be now.
            for parameter in trained:
                parameter.requires_grad_(True)
            yield self.model
