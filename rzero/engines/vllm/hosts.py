"""Hosts: a running vLLM that several engines of this process share.

A run has two engines, one for the policy that learns and one for the frozen Solver. Two copies of vLLM would need two
KV caches, and in one process there can only be one. So engines with equal settings borrow the same host, and whoever
generates first loads its own weights, unless they are the ones that were used last.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Protocol
from weakref import WeakSet

import torch

from rzero.engines.vllm.requests import Drawn, RowRequest
from rzero.policy import Policy


class Host(Protocol):
    """A running vLLM."""

    def take(self, policy: Policy, *, dtype: torch.dtype | None = None) -> Any:
        """A snapshot of the policy's merged weights, to be served in `dtype` (None: the policy's)."""

    def load(self, snapshot: Any) -> int:
        """From here on `draw` samples from `snapshot`; returns the longest sequence (tokens) that it can hold."""

    def draw(self, requests: Sequence[RowRequest]) -> list[Drawn]:
        """One answer per request, in order."""

    def restart(self) -> None:
        """Replace what died; weights have to be loaded again afterwards."""

    def forget(self, snapshot: Any) -> None:
        """Let go of a snapshot that is not needed any more."""

    def shut_down(self) -> None: ...


class HostSettings(Protocol):
    """How a host is started; hashable, so that equal settings share one.

    drawn_by: which of several processes can draw from it, `first` (for all of them) or `one` (there is no other).
    """

    drawn_by: ClassVar[Literal["first", "one"]]

    def start(self, *, max_rows: int, max_tokens: int | None) -> Host: ...


_OPEN: dict[Any, tuple[Host, WeakSet[Any]]] = {}


def acquire(settings: HostSettings, *, owner: object, max_rows: int, max_tokens: int | None) -> Host:
    """The host with these settings, started when there is none. `owner` names who borrows it."""
    key = (settings, max_rows, max_tokens)
    if key not in _OPEN:
        _OPEN[key] = (settings.start(max_rows=max_rows, max_tokens=max_tokens), WeakSet())
    host, owners = _OPEN[key]
    owners.add(owner)
    return host


def release(host: Host, *, owner: object) -> None:
    """The last owner shuts the host down."""
    for key, (open_host, owners) in list(_OPEN.items()):
        if open_host is host:
            owners.discard(owner)
            if not owners:
                del _OPEN[key]
                host.shut_down()
