"""The place of this process among those that torchrun or srun started, on one machine or several.

Read from the standard variables: torchrun's (RANK, WORLD_SIZE, LOCAL_RANK, GROUP_RANK, MASTER_ADDR, MASTER_PORT), or
those of a step of SLURM with more than one task. A batch job or an array of SLURM without srun has one process.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # torch takes seconds, and most processes were not started so
    import torch.distributed as dist

    from rzero.processes.ranks import Ranks

_BY_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_SIGNS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "GROUP_RANK", "NODE_RANK")
_MEETING = timedelta(minutes=5)  # from the first process that is ready to the last


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """Rank, node and place on it; address and port are where rank 0's machine is found."""

    launcher: str
    rank: int
    size: int
    local_rank: int
    node: int
    address: str
    port: int

    @property
    def first(self) -> bool:
        return self.rank == 0

    @classmethod
    def found(cls, environment: Mapping[str, str]) -> Started | None:
        """Returns None in a process that was not started so. Raises ValueError when the variables are incomplete."""
        signs = [name for name in _SIGNS if name in environment]
        if signs:
            if missing := [name for name in _BY_TORCHRUN if name not in environment]:
                raise ValueError(
                    f"{', '.join(signs)} set but not {', '.join(missing)}: start several processes with torchrun or "
                    "srun, or unset what is set"
                )
            return cls(
                launcher="torchrun",
                rank=_number(environment, "RANK"),
                size=_number(environment, "WORLD_SIZE"),
                local_rank=_number(environment, "LOCAL_RANK"),
                node=_number(environment, "GROUP_RANK" if "GROUP_RANK" in environment else "NODE_RANK", usual=0),
                address=environment["MASTER_ADDR"],
                port=_number(environment, "MASTER_PORT"),
            )
        if _number(environment, "SLURM_STEP_NUM_TASKS", usual=1) > 1:
            return cls(
                launcher="srun",
                rank=_number(environment, "SLURM_PROCID"),
                size=_number(environment, "SLURM_STEP_NUM_TASKS"),
                local_rank=_number(environment, "SLURM_LOCALID"),
                node=_number(environment, "SLURM_NODEID"),
                address=environment.get("MASTER_ADDR") or _first_host(environment),
                port=_number(environment, "MASTER_PORT", usual=_slurm_port(environment)),
            )
        return None

    def check(self, *, devices: int, nodes: int) -> None:
        """Raises ValueError where so many processes on so many nodes are not what was started."""
        if self.size != devices * nodes:
            raise ValueError(
                f"{self.launcher} started {self.size} processes, but trainer.devices={devices} x trainer.num_nodes="
                f"{nodes} is {devices * nodes}: these would be separate experiments"
            )
        if self.rank != self.node * devices + self.local_rank:
            raise ValueError(
                f"{self.launcher} made process {self.local_rank} of node {self.node} rank {self.rank}; with "
                f"trainer.devices={devices} each node has to have {devices} processes in a row"
            )

    @contextmanager
    def join(self, *, cuda: bool, fault: Exception | None = None) -> Iterator[Ranks]:
        """The process group, as `RankConfig.join` has it. cuda: whether each process trains on a GPU.

        fault: why this process cannot take part; then, and where another one cannot, all raise it as `Lost`.
        Raises TimeoutError naming the ranks that did not come.
        """
        from rzero.processes.group import process_group

        # what srun does not set, for torch's env:// and for Lightning, which then starts nothing itself
        mine = {"MASTER_ADDR": self.address, "MASTER_PORT": self.port}
        mine |= {"LOCAL_RANK": self.local_rank, "NODE_RANK": self.node}
        os.environ.update({name: str(value) for name, value in mine.items()})
        device = self.local_rank if cuda else None
        if not fault and device is not None:
            fault = _missing(device)
        store = self._meet(fault)
        with process_group(rank=self.rank, size=self.size, meeting=store, address=self.address, device=device) as ranks:
            yield ranks

    def _meet(self, fault: Exception | None) -> dist.Store:
        """The store of the rendezvous, when all are there and none has a fault."""
        import torch.distributed as dist

        from rzero.processes.watch import Lost

        store, _, _ = next(dist.rendezvous("env://", self.rank, self.size, timeout=_MEETING))
        names = [f"rzero/{rank}" for rank in range(self.size)]
        store.set(names[self.rank], f"rank {self.rank} on {socket.gethostname()}: {fault}" if fault else "")
        try:
            if self.first:
                store.wait(names, _MEETING)
                store.set("rzero/fault", next(filter(None, map(store.get, names)), b""))
            store.wait(["rzero/fault"], 2 * _MEETING)
        except dist.DistStoreError as error:
            missing = [str(rank) for rank, name in enumerate(names) if not store.check([name])]
            raise TimeoutError(f"rank {', '.join(missing)} did not come to {self.address}:{self.port}") from error
        if fault:
            raise fault
        if found := store.get("rzero/fault").decode():
            raise Lost(found)
        return store


def _missing(device: int) -> Exception | None:
    """Why this process cannot have its GPU; None when it can."""
    import torch

    try:
        torch.cuda.set_device(device)
    except (RuntimeError, AssertionError) as error:
        return RuntimeError(f"no GPU {device}: {error}")
    return None


def _number(environment: Mapping[str, str], name: str, *, usual: int | None = None) -> int:
    text = environment.get(name, "" if usual is None else str(usual))
    if not text.isdecimal():
        raise ValueError(f"{name} has to be a whole number, got {text!r}")
    return int(text)


def _first_host(environment: Mapping[str, str]) -> str:
    from lightning.pytorch.plugins.environments import SLURMEnvironment

    names = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_NODELIST", "127.0.0.1")
    return SLURMEnvironment.resolve_root_node_address(names)


def _slurm_port(environment: Mapping[str, str]) -> int:
    """Lightning's rule: every process of a job knows it."""
    return 15_000 + int(environment.get("SLURM_JOB_ID", "0")[-4:])
