"""Hosts: a running vLLM that several engines of this process share.

A run has two engines, one for the policy that learns and one for the frozen Solver. Two copies of vLLM would need two
KV caches, and in one process there can only be one. So engines with equal settings share one host, and whoever
generates first loads its own weights, unless they are the ones that were used last.

One vLLM inside each training process, as TRL does by default, would need neither HTTP nor files, and is not taken. By
the cost model of a Solver step on eight H100 (189 s, of which 55 drawing, 33 a sync, all estimates) it could save the
sync but for the second or two that the gathering takes, which is a sixth, and in a Challenger step (461 s) a tenth;
HTTP costs rank 0 time that is hidden behind drawing. Weights that travel rounded halve the sync already, and vLLM's own
transfer (`transfer.py`) takes the rest of it without a merger of processes. That would cost what servers give: vLLM
seeds and patches the process it runs in and wants its process groups (`in_process.py` undoes that for one process), an
illegal access or a lack of memory in it ends the training beside it where a server is replaced and its call repeated,
every rank must draw whatever its share of the tail is, and servers on other machines would be a second way to do it
all. On one GPU, where no server is needed, vLLM in the process is a choice (`engine=vllm`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol, TypeAlias, TypeVar
from weakref import WeakSet

import torch

from rzero.engines.vllm.requests import Drawn, Finished, RowRequest
from rzero.policy import Policy

S = TypeVar("S")

Follow: TypeAlias = Callable[[Drawn], Sequence[RowRequest]]
"""Returns what is asked because of what was drawn: no requests, or those of one prompt."""


class Host(Protocol[S]):
    """A running vLLM. S: the form in which it keeps a policy's weights that are to be served later."""

    def take(self, policy: Policy, *, dtype: torch.dtype | None = None) -> S:
        """Returns a snapshot of the policy's weights, to be served in `dtype` (None: the policy's).

        Adapters are kept apart from the weights below them, which are taken once for all policies over them.
        """

    def load(self, snapshot: S) -> int:
        """Makes `snapshot` ready to be drawn from; returns the longest sequence (tokens) that it can hold.

        One that was loaded before stays so when it shares its weights with this one (`beside`).
        """

    def beside(self, one: S, other: S) -> bool:
        """Returns whether both can be loaded at the same time: adapters over the same weights can."""

    def draw(self, requests: Sequence[RowRequest], snapshot: S, *, finished: Finished | None = None) -> list[Drawn]:
        """One answer per request, in order, from a snapshot that is loaded. `finished` counts them as they come."""

    def draw_and_follow(
        self, requests: Sequence[RowRequest], snapshot: S, *, follow: Follow, of: S, finished: Finished | None = None
    ) -> tuple[list[Drawn], list[list[Drawn]]]:
        """As `draw`, and the answers of the snapshot `of` to what `follow` asks after each, while others are drawn.

        `follow` is called in the order of `requests`.
        """

    def rest(self) -> None:
        """Gives memory back until the next `load`, as far as the settings say."""

    def check(self, snapshot: S) -> None:
        """Raises RuntimeError when vLLM's checksums say that it has other weights than `snapshot`, which is loaded.

        Where they cannot be had, the log says so.
        """

    def restart(self) -> None:
        """Replaces what died; weights have to be loaded again afterwards."""

    def forget(self, snapshot: S) -> None:
        """Lets go of a snapshot that is not needed any more."""

    def shut_down(self) -> None: ...


class HostSettings(Protocol[S]):
    """Settings of a host; hashable, so that equal settings share one.

    served: whether it runs behind servers, so that the first of several processes can draw for all of them.
    """

    served: ClassVar[bool]

    def start(self, *, max_rows: int, max_tokens: int | None) -> Host[S]: ...


_OPEN: dict[object, tuple[Host[Any], WeakSet[object]]] = {}


def acquire(settings: HostSettings[S], *, owner: object, max_rows: int, max_tokens: int | None) -> Host[S]:
    """Returns the host with these settings, started when there is none. It runs until its last `owner` releases it."""
    key = (settings, max_rows, max_tokens)
    if key not in _OPEN:
        _OPEN[key] = (settings.start(max_rows=max_rows, max_tokens=max_tokens), WeakSet())
    host, owners = _OPEN[key]
    owners.add(owner)
    return host


def release(host: Host[S], *, owner: object) -> None:
    """Gives a host back; the last owner's release shuts it down."""
    for key, (open_host, owners) in list(_OPEN.items()):
        if open_host is host:
            owners.discard(owner)
            if not owners:
                del _OPEN[key]
                host.shut_down()
