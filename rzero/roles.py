"""The weights from which each role starts its training in an iteration: the difference between two models and one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Role = Literal["challenger", "solver"]
Origin = Literal["challenger", "solver", "base"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Roles:
    """The predecessors of Q_i and S_i.

    challenger_from: Q_i starts from Q_{i-1} ("challenger", the paper), from S_{i-1} ("solver") or from the base model.
    solver_from: S_i starts from S_{i-1} ("solver", the paper) or from Q_i ("challenger"). Both crossed over make one
    model that is trained in both roles in turn (docs/method.md#variants).

    The frozen Solver that rewards and labels is S_{i-1} in every case.
    """

    challenger_from: Origin
    solver_from: Role

    def __post_init__(self) -> None:
        for name, known in (("challenger_from", get_args(Origin)), ("solver_from", get_args(Role))):
            if (value := getattr(self, name)) not in known:
                raise ValueError(f"roles.{name} must be one of {', '.join(known)}, got {value!r}")

    def predecessor(self, role: Role, iteration: int) -> tuple[Role, int]:
        """Returns whose weights, and of which iteration, `role` starts from in `iteration` (1 is the first)."""
        if role == "challenger":
            return ("challenger", 0) if self.challenger_from == "base" else (self.challenger_from, iteration - 1)
        return self.solver_from, iteration if self.solver_from == "challenger" else iteration - 1


TWO_MODELS = Roles(challenger_from="challenger", solver_from="solver")
