"""Whose weights a role has: those of the base model, or those that a phase left on disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from rzero.adapters import adapter_weights, holds_adapters
from rzero.policy import Policy
from rzero.roles import TWO_MODELS, Role, Roles
from rzero.runs.directory import RunDirectory


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """The weights of Q_i and S_i, found by role and iteration (0: the base model).

    base: where Q_0 and S_0 come from. make: a policy from a path or hub id, and with `adapter` from the directory of
    adapters that go on top. roles: which weights a phase starts from.
    """

    base: str
    make: Callable[..., Policy]
    directory: RunDirectory
    roles: Roles = TWO_MODELS

    def load(self, role: Role, iteration: int) -> Policy:
        """Returns the role's policy after `iteration`. A role that was not trained has the weights it started from.

        With LoRA that is the base, the same for both roles in all iterations, and the adapters that a phase left.
        Raises ValueError when they were left merged, as earlier versions did.
        """
        directory = self.trained(role, iteration)
        if directory is None:
            return self.make(self.base)
        if holds_adapters(directory):
            return self.make(self.base, adapter=directory)
        if (directory / "adapter").is_dir():
            raise ValueError(
                f"{directory} holds adapters merged into the weights, as earlier versions left them: finish the run "
                f"with that version, or start one with policy.path_or_id={directory}"
            )
        return self.make(str(directory))

    def trained(self, role: Role, iteration: int) -> Path | None:
        """Returns the directory that holds what `load` loads; None for the base model."""
        trained = self._trained(role, iteration)
        return self.directory.weights(*trained) if trained else None

    @torch.no_grad()
    def load_mean(self, role: Role, shares: Mapping[int, float]) -> Policy:
        """Returns the role's policy with the mean of its weights after these iterations, added up in float32 at least.

        With LoRA that is the mean of the adapters' tensors. One policy is in memory beside the sum at a time.
        """
        [first, *others] = shares
        policy = self.load(role, first)
        if not others:
            return policy
        own = _trained_tensors(policy)
        sums = {name: shares[first] * _wide(tensor) for name, tensor in own.items()}
        for iteration in others:
            for name, tensor in _trained_tensors(self.load(role, iteration)).items():
                sums[name] += shares[iteration] * _wide(tensor)
        for name, tensor in own.items():
            tensor.copy_(sums.pop(name))
        return policy

    def load_start(self, role: Role, iteration: int) -> Policy:
        """Returns the policy from which the role's training of `iteration` starts."""
        return self.load(*self.roles.predecessor(role, iteration))

    def name(self, role: Role, iteration: int) -> str:
        """Returns the artifact that holds what `load` loads, such as `solver_2`; `base` for the base model."""
        trained = self._trained(role, iteration)
        return f"{trained[0]}_{trained[1]}" if trained else "base"

    def start_name(self, role: Role, iteration: int) -> str:
        """Returns the artifact that holds what `load_start` loads."""
        return self.name(*self.roles.predecessor(role, iteration))

    def _trained(self, role: Role, iteration: int) -> tuple[Role, int] | None:
        """The role and iteration of the training that the weights come from; None: the base model."""
        while iteration > 0 and not self.directory.weights(role, iteration).is_dir():
            role, iteration = self.roles.predecessor(role, iteration)
        return (role, iteration) if iteration > 0 else None


def _trained_tensors(policy: Policy) -> dict[str, Tensor]:
    """What training changes: the adapters where there are any, else every weight, tied ones once."""
    return adapter_weights(policy.model) or {name: p.detach() for name, p in policy.model.named_parameters()}


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
