"""One or more `vllm serve` processes as a host: rows are dealt over replicas, weights travel by one of `transfer.py`.

Servers are started by us, on free ports of 127.0.0.1, and ended by us. Or they are yours (`urls`): on this machine or
on any that shares `exchange`, over routes without a secret and hence on a trusted network only, each started with

    VLLM_SERVER_DEV_MODE=1 vllm serve MODEL --tokens-only --logprobs-mode processed_logprobs --generation-config vllm

for LoRA with VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 and `--enable-lora --max-lora-rank N --max-loras 2`, for sleep with
`--enable-sleep-mode`, with VLLM_API_KEY where this side has it too, with `--host` for the interface it listens on,
and, on CPUs, `--no-enable-chunked-prefill --max-num-batched-tokens N` with N at least the model's length
(`rzero.engines.vllm.in_process.prompts_in_one_piece` says why).
"""

from __future__ import annotations

import functools
import itertools
import logging
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Protocol

import torch
from torch import Tensor
from urllib3.util import parse_url

from rzero.adapters import unwrap_adapters
from rzero.engines.verification import Checksums, fingerprinted
from rzero.engines.vllm.adapters import Adapter, Bases, fingerprint, write_adapter
from rzero.engines.vllm.adapters import options as adapter_options
from rzero.engines.vllm.hosts import Follow
from rzero.engines.vllm.in_process import ASLEEP, FORGETFUL, GIB, check_sleep_level, prompts_in_one_piece
from rzero.engines.vllm.requests import Drawn, Finished, RowRequest
from rzero.engines.vllm.retry import EngineDied
from rzero.engines.vllm.server_client import Replica, Timeouts
from rzero.engines.vllm.server_process import ServerProcess
from rzero.engines.vllm.snapshot import Architecture, architecture, serving_parts
from rzero.engines.vllm.transfer import ThroughFiles, Transfer, on_all
from rzero.policy import Policy
from rzero.processes.open_files import connections_per_server

_LOG = logging.getLogger(__name__)
HERE = ("127.0.0.1", "localhost", "[::1]")
"""Hosts that see the folders for temporary files of this machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VllmServers:
    """Settings of servers, which are reached or started.

    urls: servers that run already; empty: `replicas` are started. devices: CUDA_VISIBLE_DEVICES of each replica ("4" or
    "4,5"); empty: as it is. arguments: further ones of `vllm serve`, such as [--tensor-parallel-size, "2"]. exchange:
    folder for weights that all servers can read, null: a temporary one. transfer: how weights travel. The others
    are those of `rzero.engines.vllm.in_process.InProcessVllm`, for servers of our own.
    """

    served: ClassVar[bool] = True

    urls: Sequence[str]
    replicas: int
    devices: Sequence[str]
    arguments: Sequence[str]
    exchange: str | None
    threads: int
    kv_cache_gib: float | None
    gpu_memory_utilization: float
    max_batched_tokens: int
    enforce_eager: bool
    sleep_level: int
    timeouts: Timeouts
    transfer: Transfer

    def __post_init__(self) -> None:
        for name in ("urls", "devices", "arguments"):  # lists of a configuration cannot be hashed
            object.__setattr__(self, name, tuple(str(value) for value in getattr(self, name)))
        if self.replicas < 1 or self.threads < 1 or self.max_batched_tokens < 1:
            raise ValueError("engine.host.replicas, threads and max_batched_tokens must be at least 1")
        check_sleep_level(self.sleep_level)
        far = [url for url in self.urls if parse_url(url).host not in HERE]
        if far and self.exchange is None and isinstance(self.transfer, ThroughFiles):
            raise ValueError(
                f"engine.host.exchange must name a folder that {far[0]} can read too, and is null: weights go there"
            )
        if self.devices and len(self.devices) != self.replicas:
            raise ValueError(
                f"engine.host.devices names {len(self.devices)} devices for {self.replicas} replicas; give one each"
            )

    def start(self, *, max_rows: int, max_tokens: int | None) -> ServedVllm:
        """Nothing runs yet: servers are started with the first weights."""
        return ServedVllm(self, max_rows=max_rows, max_tokens=max_tokens)

    @property
    def sleeps(self) -> bool:
        """Whether servers are put to sleep: on CPUs vLLM knows no sleep."""
        return self.sleep_level > 0 and (bool(self.urls) or torch.cuda.is_available())

    def serve_arguments(self, shape: Architecture, *, max_rows: int, max_tokens: int | None) -> list[str]:
        options: dict[str, object] = {
            "max_num_seqs": max_rows,
            "max_model_len": max_tokens,
            "max_num_batched_tokens": self.max_batched_tokens,
            "gpu_memory_utilization": self.gpu_memory_utilization,
            "kv_cache_memory_bytes": None if self.kv_cache_gib is None else int(self.kv_cache_gib * GIB),
            "dtype": shape.dtype,
            "logprobs_mode": "processed_logprobs",
            "generation_config": "vllm",
            "tokens_only": True,
            "enforce_eager": self.enforce_eager,
            "disable_log_stats": True,
            "seed": 0,
            "enable_sleep_mode": self.sleeps or None,
            **adapter_options(shape.adapter_rank),
            **self.transfer.server_options,
        }
        options |= prompts_in_one_piece(shape, self.max_batched_tokens, max_tokens)
        return [*itertools.chain.from_iterable(map(_flag, options.items())), *self.arguments]


def _flag(option: tuple[str, object]) -> list[str]:
    name, value = option[0].replace("_", "-"), option[1]
    if value is None or isinstance(value, bool):
        return [] if value is None else [f"--{name}" if value else f"--no-{name}"]
    return [f"--{name}", str(value)]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Files:
    """A folder in the form of a Hugging Face model, in which weights may be; those in memory; their fingerprints.

    adapter: what lies over them.
    """

    architecture: Architecture
    directory: Path
    weights: dict[str, Tensor]
    fingerprints: dict[str, int]
    adapter: Adapter | None = None


class Deal(Protocol):
    """Queues rows on `parts` replicas, those that have been given the fewest."""

    def __call__(self, requests: Sequence[RowRequest], snapshot: Files, *, parts: int) -> list[Future[Drawn]]: ...


class ServedVllm:
    """A `Host` of servers."""

    def __init__(self, settings: VllmServers, *, max_rows: int, max_tokens: int | None) -> None:
        self._settings, self._max_rows, self._max_tokens = settings, max_rows, max_tokens
        self._sender = settings.transfer.open(devices=settings.devices)
        self._connections = connections_per_server(max_rows, servers=self._count)
        self._folder = tempfile.TemporaryDirectory(prefix="rzero-weights-", dir=settings.exchange)
        self._numbers = itertools.count()
        self._replicas: list[Replica] = []
        self._bases: Bases[Files] = Bases()
        self._served: Files | None = None  # what servers are started from
        self._loaded: Path | None = None  # the weights that all of them have
        self._adapters: dict[Adapter, str] = {}  # and the names under which they have adapters
        self._unneeded: list[str] = []
        self._checksums = Checksums()
        self._half_given = ""  # what went wrong while weights were given
        self._asleep: tuple[str, ...] = ()

    # ---- weights -------------------------------------------------------------------------------------------------

    def take(self, policy: Policy, *, dtype: torch.dtype | None = None) -> Files:
        shape = architecture(policy, dtype=dtype)
        if shape.adapter_rank is None:
            return self._taken(policy, shape, dtype=dtype)
        key = (fingerprint(unwrap_adapters(policy.model)), shape)
        below = self._bases.take(key, lambda: self._taken(policy, shape, dtype=dtype))
        return replace(below, adapter=write_adapter(policy, self._new_folder("adapter"), base=key))

    def _taken(self, policy: Policy, shape: Architecture, *, dtype: torch.dtype | None) -> Files:
        directory, marks = self._new_folder("weights"), dict[str, int]()
        directory.mkdir()
        shape.write(directory)
        weights = self._sender.keep(directory, fingerprinted(serving_parts(policy, dtype=dtype), marks))
        return Files(architecture=shape, directory=directory, weights=weights, fingerprints=marks)

    def load(self, snapshot: Files) -> int:
        if self._half_given:
            self.restart()
        before, self._served = self._served, snapshot
        if before is None or (before.architecture != snapshot.architecture and not self._settings.urls):
            self._end()
            self._replicas = [self._open(number) for number in range(self._count)]
        if self._loaded != snapshot.directory or self._asleep:
            for replica in self._replicas:
                replica.await_ready()
        self._wake("weights")
        if self._loaded != snapshot.directory:
            self._loaded = None
            self._give(snapshot)
            self._unneeded += self._adapters.values()  # they lay over weights that are gone
            self._adapters.clear()
            self._longest = min(replica.longest() for replica in self._replicas)
            self._loaded = snapshot.directory
        self._wake("kv_cache")
        if snapshot.adapter is not None and snapshot.adapter not in self._adapters:
            self._load_adapter(snapshot.adapter)
        return self._longest

    def _give(self, snapshot: Files) -> None:
        """Replicas answer as if nothing were wrong when this fails in the middle, from whatever weights they have then.

        So none of them is used again: ours are replaced, and yours end the run.
        """
        try:
            self._sender.give(self._replicas, snapshot.directory, snapshot.weights)
        except BaseException as error:
            names = " and ".join(replica.name for replica in self._replicas)
            self._half_given = f"an update of the weights of {names} failed in the middle: {error}"
            raise

    def check(self, snapshot: Files) -> None:
        said = dict(zip(self._replicas, on_all(self._replicas, Replica.checksums), strict=True))
        known = {replica.name: checksums for replica, checksums in said.items() if checksums is not None}
        if unknown := [replica.name for replica, checksums in said.items() if checksums is None]:
            _LOG.warning(
                "weights in %s are checked by log-probs alone: no /weight_checker there, which vLLM 0.32 has",
                " and ".join(unknown),
            )
        if known:
            self._checksums.check(snapshot.fingerprints, known)

    def _load_adapter(self, adapter: Adapter) -> None:
        """Under a name that no other adapter had: prompts in the prefix cache are kept by it."""
        while self._unneeded:
            on_all(self._replicas, functools.partial(Replica.unload_adapter, name=self._unneeded[-1]))
            self._unneeded.pop()
        name = f"adapter_{next(self._numbers)}"
        on_all(self._replicas, functools.partial(Replica.load_adapter, adapter=adapter, name=name))
        self._adapters[adapter] = name

    def beside(self, one: Files, other: Files) -> bool:
        return one.directory == other.directory

    def forget(self, snapshot: Files) -> None:
        if snapshot.adapter is not None:
            shutil.rmtree(snapshot.adapter.directory)
            if name := self._adapters.pop(snapshot.adapter, None):
                self._unneeded.append(name)
        if snapshot.adapter is None or self._bases.forget(snapshot.adapter.base):
            shutil.rmtree(snapshot.directory)

    # ---- rollouts ------------------------------------------------------------------------------------------------

    def draw(self, requests: Sequence[RowRequest], snapshot: Files, *, finished: Finished | None = None) -> list[Drawn]:
        """Neighbouring rows go to the same replica, because they share a prompt; each has a queue of its own.

        Each row under way has a connection: `max_rows` of them, or fewer where the limit on open files is low.
        When a replica dies, rows that wait are dropped and those under way are waited for: a server that still draws
        cannot be given weights.
        """
        with self._dealing(finished or Finished()) as deal:
            return [answer.result() for answer in deal(requests, snapshot, parts=self._count)]

    def draw_and_follow(
        self,
        requests: Sequence[RowRequest],
        snapshot: Files,
        *,
        follow: Follow,
        of: Files,
        finished: Finished | None = None,
    ) -> tuple[list[Drawn], list[list[Drawn]]]:
        """Rows are dealt one by one, so that they end in about their order, in which `follow` has to be called.

        What follows from a row shares a prompt and goes to one replica, behind the rows that wait there.
        """
        with self._dealing(finished or Finished()) as deal:
            drawn, answers = [], []
            for answer in deal(requests, snapshot, parts=len(requests)):
                drawn.append(answer.result())
                answers.append(deal(follow(drawn[-1]), of, parts=1))
            return drawn, [[answer.result() for answer in group] for group in answers]

    @contextmanager
    def _dealing(self, finished: Finished) -> Iterator[Deal]:
        """Queues for the rows of one call, which are empty and at rest afterwards. `finished` counts the rows."""
        queues = [ThreadPoolExecutor(max_workers=self._connections) for _ in self._replicas]
        dealt = [0] * self._count

        def deal(requests: Sequence[RowRequest], snapshot: Files, *, parts: int) -> list[Future[Drawn]]:
            name = self._adapters[snapshot.adapter] if snapshot.adapter else None
            answers = []
            finished.expect(len(requests))
            for part in range(parts):
                share = requests[-(-len(requests) * part // parts) : -(-len(requests) * (part + 1) // parts)]
                number = dealt.index(min(dealt))
                dealt[number] += len(share)
                draw = finished.counting(functools.partial(self._replicas[number].draw, model=name))
                answers += [queues[number].submit(draw, request) for request in share]
            return answers

        try:
            yield deal
        finally:
            for queue in queues:
                queue.shutdown(wait=False, cancel_futures=True)
            for queue in queues:
                queue.shutdown(wait=True)

    # ---- servers -------------------------------------------------------------------------------------------------

    @property
    def _count(self) -> int:
        return len(self._settings.urls) or self._settings.replicas

    def rest(self) -> None:
        """Both parts of all servers sleep; at level 2 the weights are not kept."""
        if not self._settings.sleeps or self._asleep or not self._replicas:
            return
        self._asleep = ASLEEP
        if self._settings.sleep_level == FORGETFUL:
            self._loaded = None
        with suppress(EngineDied):  # who is gone holds no memory, and is replaced when something is drawn
            on_all(self._replicas, lambda replica: replica.sleep(self._settings.sleep_level))

    def _wake(self, part: str) -> None:
        if part in self._asleep:
            on_all(self._replicas, lambda replica: replica.wake(part))
            self._asleep = tuple(other for other in self._asleep if other != part)

    def restart(self) -> None:
        """Replaces those of our servers that are not well; `load` waits for them, and for those that are yours.

        Raises RuntimeError when yours have weights that are neither those of one sync nor of another.
        """
        self._loaded = None
        if self._half_given and self._settings.urls:
            raise RuntimeError(f"{self._half_given}; start these servers again, then resume the run")
        if self._half_given:
            self._end()
            self._half_given = ""
            self._replicas = [self._open(number) for number in range(self._count)]
        for number, replica in enumerate(self._replicas):
            if replica.process is not None and not replica.answers():
                replica.end()
                self._replicas[number] = self._open(number)

    def shut_down(self) -> None:
        self._end()
        self._folder.cleanup()

    def _open(self, number: int) -> Replica:
        settings = self._settings
        if settings.urls:
            return self._replica(settings.urls[number], number=number, process=None)
        assert self._served is not None
        process = ServerProcess(
            self._served.directory,
            settings.serve_arguments(self._served.architecture, max_rows=self._max_rows, max_tokens=self._max_tokens),
            environment=settings.transfer.environment
            | ({"CUDA_VISIBLE_DEVICES": settings.devices[number]} if settings.devices else {}),
            threads=settings.threads,
            log=self._path / f"replica_{number}.log",
        )
        return self._replica(f"http://127.0.0.1:{process.port}", number=number, process=process)

    def _replica(self, url: str, *, number: int, process: ServerProcess | None) -> Replica:
        timeouts, connections = self._settings.timeouts, self._connections
        return Replica(url, number=number, process=process, timeouts=timeouts, connections=connections)

    def _end(self) -> None:
        for replica in self._replicas:
            replica.end()
        self._replicas, self._loaded, self._asleep = [], None, ()
        self._adapters.clear()
        self._unneeded.clear()
        self._checksums = Checksums()
        self._sender = self._settings.transfer.open(devices=self._settings.devices)

    def _new_folder(self, name: str) -> Path:
        return self._path / f"{name}_{next(self._numbers)}"

    @property
    def _path(self) -> Path:
        return Path(self._folder.name)
