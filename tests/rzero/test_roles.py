"""From which weights each role starts: two models, one model, and a Challenger that starts anew."""

from __future__ import annotations

import pytest

from rzero.roles import TWO_MODELS, Roles

SHARED = Roles(challenger_from="solver", solver_from="challenger")
ANEW = Roles(challenger_from="solver", solver_from="solver")
FRESH = Roles(challenger_from="base", solver_from="solver")


@pytest.mark.parametrize(
    ("roles", "challenger", "solver"),
    [
        (TWO_MODELS, ("challenger", 2), ("solver", 2)),
        (SHARED, ("solver", 2), ("challenger", 3)),
        (ANEW, ("solver", 2), ("solver", 2)),
        (FRESH, ("challenger", 0), ("solver", 2)),
    ],
)
def test_predecessors_in_round_three(roles: Roles, challenger: tuple[str, int], solver: tuple[str, int]) -> None:
    assert roles.predecessor("challenger", 3) == challenger
    assert roles.predecessor("solver", 3) == solver


def test_a_wrong_role_is_named() -> None:
    with pytest.raises(ValueError, match=r"roles.solver_from must be one of challenger, solver, got 'judge'"):
        Roles(challenger_from="solver", solver_from="judge")  # type: ignore[arg-type]
