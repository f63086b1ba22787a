"""vLLM in this process: no server, no copy of the weights on disk; one GPU, or this machine's CPU.

vLLM takes a process over when it starts: it seeds the global generators, replaces `torch.set_num_threads`, changes
environment variables that children inherit, and makes a process group of its own. All this is undone, the last when
nobody needs vLLM any more, so that training in the same process is what it would be without.
"""

from __future__ import annotations

import functools
import gc
import itertools
import logging
import os
import random
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, TypeVar

import numpy as np
import torch
from torch import Tensor

from rzero.adapters import unwrap_adapters
from rzero.engines.threads import torch_threads
from rzero.engines.verification import Checksums, fingerprinted
from rzero.engines.vllm.adapters import Adapter, Bases, fingerprint, write_adapter
from rzero.engines.vllm.adapters import options as adapter_options
from rzero.engines.vllm.hosts import Follow
from rzero.engines.vllm.requests import Drawn, Finished, RowRequest
from rzero.engines.vllm.retry import EngineDied
from rzero.engines.vllm.snapshot import Architecture, architecture, in_memory, serving_parts
from rzero.policy import Policy
from rzero.types import Json

if TYPE_CHECKING:  # not installed everywhere
    from vllm import LLM, CompletionOutput
    from vllm.lora.request import LoRARequest

T = TypeVar("T")

_LOG = logging.getLogger(__name__)
GIB = 2**30
ASLEEP = ("weights", "kv_cache")
"""What sleeps, in the order in which it has to wake."""
FORGETFUL = 2
"""The level of sleep that weights do not survive."""
_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # weights are handed over in this process
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # the machine is shared with training
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
}


def check_sleep_level(level: int) -> None:
    """Raises ValueError for one that vLLM does not know."""
    if level not in (0, 1, 2):
        raise ValueError(f"engine.host.sleep_level must be 0, 1 or 2, got {level}")


@dataclass(frozen=True, slots=True, kw_only=True)
class InProcessVllm:
    """Settings of vLLM in this process.

    threads: torch threads while drawing (CPU). kv_cache_gib: memory for the KV cache, GiB; null: what
    gpu_memory_utilization leaves. gpu_memory_utilization: share of the GPU's memory for weights and cache.
    max_batched_tokens: tokens, prompts included, of one forward pass. enforce_eager: no CUDA graphs, no compilation.
    sleep_level: what is given up on the GPU while the policy trains: 0 nothing, 1 cache and weights (kept in host
    memory), 2 both discarded. Ignored on CPUs, where vLLM knows no sleep.
    """

    served: ClassVar[bool] = False

    threads: int
    kv_cache_gib: float | None
    gpu_memory_utilization: float
    max_batched_tokens: int
    enforce_eager: bool
    sleep_level: int

    def __post_init__(self) -> None:
        if self.threads < 1 or self.max_batched_tokens < 1:
            raise ValueError("engine.host.threads and max_batched_tokens must be at least 1")
        check_sleep_level(self.sleep_level)
        if not 0 < self.gpu_memory_utilization <= 1:
            raise ValueError(
                f"engine.host.gpu_memory_utilization must lie in (0, 1], got {self.gpu_memory_utilization}"
            )
        if self.kv_cache_gib is not None and self.kv_cache_gib <= 0:
            raise ValueError(f"engine.host.kv_cache_gib must be positive or null, got {self.kv_cache_gib}")

    def start(self, *, max_rows: int, max_tokens: int | None) -> ResidentVllm:
        """Nothing runs yet: vLLM is built for the architecture of the first weights."""
        sleeps = self.sleep_level > 0 and torch.cuda.is_available()
        options: Json = {
            "max_num_seqs": max_rows,
            "max_model_len": max_tokens,
            "max_num_batched_tokens": self.max_batched_tokens,
            "gpu_memory_utilization": self.gpu_memory_utilization,
            "kv_cache_memory_bytes": None if self.kv_cache_gib is None else int(self.kv_cache_gib * GIB),
            "enforce_eager": self.enforce_eager,
            "enable_sleep_mode": sleeps,
        }
        return ResidentVllm(
            make=lambda shape: build(shape, options),
            threads=self.threads,
            sleep_level=self.sleep_level if sleeps else 0,
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Snapshot:
    """Weights in host memory, their fingerprints, and on disk the adapter that lies over them."""

    architecture: Architecture
    weights: dict[str, Tensor]
    fingerprints: dict[str, int]
    adapter: Adapter | None = None


class ResidentVllm:
    """A `Host`. `make(architecture)` builds a `vllm.LLM`, whose weights mean nothing yet."""

    def __init__(self, *, make: Callable[[Architecture], LLM], threads: int, sleep_level: int) -> None:
        self._make, self._threads, self._sleep_level = make, threads, sleep_level
        self._llm: LLM | None = None
        self._architecture: Architecture | None = None
        self._loaded: dict[str, Tensor] | None = None
        self._asleep: tuple[str, ...] = ()
        self._checksums = Checksums()
        self._bases: Bases[Snapshot] = Bases()
        self._adapters: dict[Adapter, int] = {}  # numbers under which vLLM has them
        self._numbers = itertools.count(1)
        self._folder: tempfile.TemporaryDirectory[str] | None = None  # of adapters

    # ---- weights -------------------------------------------------------------------------------------------------

    def take(self, policy: Policy, *, dtype: torch.dtype | None = None) -> Snapshot:
        shape = architecture(policy, dtype=dtype)
        if shape.adapter_rank is None:
            return _taken(policy, shape, dtype=dtype)
        key = (fingerprint(unwrap_adapters(policy.model)), shape)
        below = self._bases.take(key, lambda: _taken(policy, shape, dtype=dtype))
        self._folder = self._folder or tempfile.TemporaryDirectory(prefix="rzero-adapters-")
        directory = Path(self._folder.name) / f"adapter_{next(self._numbers)}"
        return replace(below, adapter=write_adapter(policy, directory, base=key))

    def load(self, snapshot: Snapshot) -> int:
        """Weights wake first, then get their values, and the cache wakes last: memory is asked for in that order."""
        if self._architecture != snapshot.architecture:
            self.restart()
            self._llm = _guarded(lambda: self._make(snapshot.architecture), threads=self._threads)
            self._architecture = snapshot.architecture
        self._wake("weights")
        if self._loaded is not snapshot.weights:
            _guarded(lambda: _reload(self._running, snapshot.weights), threads=self._threads)
            self._loaded = snapshot.weights
            self._adapters.clear()  # what lay over weights that are gone is read again, under a new number
        if snapshot.adapter is not None:
            self._adapters.setdefault(snapshot.adapter, next(self._numbers))
        self._wake("kv_cache")
        return int(self._running.model_config.max_model_len)

    def check(self, snapshot: Snapshot) -> None:
        said = _guarded(lambda: _checksums(self._running), threads=self._threads)
        if said is not None:
            self._checksums.check(snapshot.fingerprints, {"vLLM in this process": said})

    def beside(self, one: Snapshot, other: Snapshot) -> bool:
        return one.weights is other.weights

    def forget(self, snapshot: Snapshot) -> None:
        """Weights are plain memory, and vLLM drops adapters that it has no room for."""
        if snapshot.adapter is not None:
            self._bases.forget(snapshot.adapter.base)
            self._adapters.pop(snapshot.adapter, None)
            shutil.rmtree(snapshot.adapter.directory)

    # ---- rollouts ------------------------------------------------------------------------------------------------

    def draw(
        self, requests: Sequence[RowRequest], snapshot: Snapshot, *, finished: Finished | None = None
    ) -> list[Drawn]:
        drawn = self._drawing(lambda: _generate(self._running, requests, self._lora(snapshot)))
        if finished is not None:
            finished.expect(len(drawn))
            finished.count(*drawn)
        return drawn

    def draw_and_follow(
        self,
        requests: Sequence[RowRequest],
        snapshot: Snapshot,
        *,
        follow: Follow,
        of: Snapshot,
        finished: Finished | None = None,
    ) -> tuple[list[Drawn], list[list[Drawn]]]:
        mine, theirs = self._lora(snapshot), self._lora(of)
        work = functools.partial(_generate_and_follow, follow=follow, of=theirs, finished=finished or Finished())
        return self._drawing(lambda: work(self._running, requests, mine))

    def _drawing(self, work: Callable[[], T]) -> T:
        try:
            return _guarded(work, threads=self._threads)
        except RuntimeError as error:  # CUDA's, the allocators' and vLLM's own
            self.restart()
            raise EngineDied(f"vLLM in this process failed while drawing: {error}") from error

    def _lora(self, snapshot: Snapshot) -> LoRARequest | None:
        if snapshot.adapter is None:
            return None
        from vllm.lora.request import LoRARequest

        number = self._adapters[snapshot.adapter]
        return LoRARequest(f"adapter_{number}", number, str(snapshot.adapter.directory))

    def rest(self) -> None:
        """Both parts sleep; at level 2 the weights are not kept."""
        if not self._sleep_level or self._asleep or self._llm is None:
            return
        self._llm.sleep(level=self._sleep_level)
        self._asleep = ASLEEP
        if self._sleep_level == FORGETFUL:
            self._loaded = None

    def restart(self) -> None:
        """vLLM is built again by the next `load`."""
        self._llm = self._architecture = self._loaded = None
        self._asleep = ()
        self._adapters.clear()
        self._checksums = Checksums()
        gc.collect()

    def shut_down(self) -> None:
        """Also the process group goes, so that the process is free for another run."""
        if self._llm is not None:
            self.restart()
            _leave_groups()
        if self._folder is not None:
            self._folder.cleanup()

    @property
    def _running(self) -> LLM:
        assert self._llm is not None, "load() comes before draw()"
        return self._llm

    def _wake(self, part: str) -> None:
        if part in self._asleep:
            self._running.wake_up(tags=[part])
            self._asleep = tuple(other for other in self._asleep if other != part)


def _taken(policy: Policy, shape: Architecture, *, dtype: torch.dtype | None) -> Snapshot:
    marks: dict[str, int] = {}
    weights = in_memory(fingerprinted(serving_parts(policy, dtype=dtype), marks))
    return Snapshot(architecture=shape, weights=weights, fingerprints=marks)


def _leave_groups() -> None:
    from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

    cleanup_dist_env_and_memory()


def _reload(llm: LLM, weights: dict[str, Tensor]) -> None:
    llm.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(weights.items())})
    if not llm.reset_prefix_cache():  # it holds what the old weights made of the prompts
        raise RuntimeError("vLLM in this process could not empty its prefix cache: something is still being drawn")


def _checksums(llm: LLM) -> dict[str, str] | None:
    """Of all parameters of all workers; None, and a line in the log, from a vLLM that has none."""
    try:
        workers = llm.collective_rpc("compute_weight_checksums")
    except (AttributeError, NotImplementedError) as error:
        _LOG.warning("weights in vLLM are checked by log-probs alone: this version has no checksums (%s)", error)
        return None
    return {name: value for worker in workers for name, value in worker.items()}


def _generate(llm: LLM, requests: Sequence[RowRequest], adapter: LoRARequest | None) -> list[Drawn]:
    from vllm import SamplingParams

    prompts = [{"prompt_token_ids": list(request.prompt_ids)} for request in requests]
    params = [SamplingParams(**request.params) for request in requests]
    outputs = llm.generate(prompts, params, use_tqdm=False, lora_request=adapter)
    return [_drawn(output.outputs[0]) for output in outputs]


def _generate_and_follow(
    llm: LLM,
    requests: Sequence[RowRequest],
    adapter: LoRARequest | None,
    *,
    follow: Follow,
    of: LoRARequest | None,
    finished: Finished,
) -> tuple[list[Drawn], list[list[Drawn]]]:
    """vLLM's own loop, with a look after each step at what the next of `requests` in order calls for."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    engine, done = llm.llm_engine, dict[str, Drawn]()

    def add(name: str, request: RowRequest, lora: LoRARequest | None) -> str:
        params = SamplingParams(**request.params, output_kind=RequestOutputKind.FINAL_ONLY)
        engine.add_request(name, {"prompt_token_ids": list(request.prompt_ids)}, params, lora_request=lora)
        finished.expect(1)
        return name

    names = [add(f"row_{index}", request, adapter) for index, request in enumerate(requests)]
    answers: list[list[str]] = []
    while engine.has_unfinished_requests():
        ended = {output.request_id: _drawn(output.outputs[0]) for output in engine.step() if output.finished}
        finished.count(*ended.values())
        done |= ended
        while len(answers) < len(names) and (name := names[len(answers)]) in done:
            answers.append([add(f"{name}_{n}", request, of) for n, request in enumerate(follow(done[name]))])
    return [done[name] for name in names], [[done[name] for name in group] for group in answers]


def _guarded(work: Callable[[], T], *, threads: int) -> T:
    with torch_threads(threads), left_as_it_was():
        return work()


def _drawn(output: CompletionOutput) -> Drawn:
    steps = zip(output.logprobs or (), output.token_ids, strict=output.logprobs is not None)
    logprobs = [step[token].logprob for step, token in steps]
    return Drawn(token_ids=tuple(output.token_ids), logprobs=tuple(logprobs))


def build(shape: Architecture, options: Json) -> LLM:
    """A `vllm.LLM` of that architecture with dummy weights.

    Raises RuntimeError naming `make vllm` when vLLM is not installed.
    """
    os.environ.update({name: os.environ.get(name, value) for name, value in _ENVIRONMENT.items()})
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    try:
        from vllm import LLM
    except ModuleNotFoundError as missing:
        raise RuntimeError(
            f"engine=vllm needs vLLM ({missing}): `make vllm` installs its CPU build; on a GPU machine "
            "`pip install vllm==0.32.0`"
        ) from missing
    with tempfile.TemporaryDirectory(prefix="rzero-vllm-") as folder:
        shape.write(Path(folder))
        options = options | {"dtype": shape.dtype} | adapter_options(shape.adapter_rank)
        options |= prompts_in_one_piece(shape, options["max_num_batched_tokens"], options["max_model_len"])
        return LLM(
            model=folder,
            load_format="dummy",  # the first sync brings the weights
            skip_tokenizer_init=True,  # prompts come as ids
            generation_config="vllm",
            logprobs_mode="processed_logprobs",
            disable_log_stats=True,
            seed=0,
            **{name: value for name, value in options.items() if value is not None},
        )


def prompts_in_one_piece(shape: Architecture, batched_tokens: int, longest: int | None) -> Json:
    """Options that keep vLLM on CPUs from reading a prompt in two passes.

    After the first of them vLLM 0.32 turns the request's random numbers back by one, which a CPU generator cannot do:
    "CPU Generator does not use offset" ends the engine.
    """
    if torch.cuda.is_available():
        return {}
    longest = longest or shape.context or 0
    return {"enable_chunked_prefill": False, "max_num_batched_tokens": max(batched_tokens, longest)}


@contextmanager
def left_as_it_was() -> Iterator[None]:
    """Global generators, environment, thread setter and warnings of this process after a call into vLLM."""
    environment, set_threads = dict(os.environ), torch.set_num_threads
    states = (random.getstate(), np.random.get_state(), torch.get_rng_state())
    devices: AbstractContextManager[None] = torch.random.fork_rng(enabled=torch.cuda.is_available())
    try:
        with devices, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # vLLM's own, on every import
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        torch.set_num_threads = set_threads
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)
