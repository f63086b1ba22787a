"""Rollouts by vLLM, in this process or behind servers: the choice is the host (`conf/engine/vllm*.yaml`)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import torch
from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedTokenizerBase

from rzero.adapters import adapter_rank
from rzero.engines.across import ServedEngine, one_process_only
from rzero.engines.rows import encode_all, rows_of_share, to_completions, to_groups
from rzero.engines.verification import coarser, policy_logprobs, probe_prompts, require_agreement, rollout_dtype
from rzero.engines.vllm.adapters import gather_adapters
from rzero.engines.vllm.hosts import Host, HostSettings, acquire, release
from rzero.engines.vllm.requests import Drawn, Finished, RowRequest, probe_requests, row_requests
from rzero.engines.vllm.retry import retry_when_dead
from rzero.engines.vllm.snapshot import serving_parts
from rzero.gathering import take_part
from rzero.interfaces import Ask, Progress, RolloutEngine
from rzero.policy import Policy
from rzero.processes.ranks import Ranks
from rzero.types import Completion, Group, Prompt, Sampling

S = TypeVar("S")
T = TypeVar("T")

_PROBE_TOKENS = 3
_ALONE = Ranks()


class VllmEngine(Generic[S]):
    """A `RolloutEngine` on vLLM.

    A completion depends on the seed of the call, the index of its prompt in the call, its sample index and the weights,
    not on what else is in the batch (up to floating-point rounding, which may turn a near tie).

    Log-probs are those of the distribution that was sampled from: temperature-scaled and, other than the embedded
    engine's, renormalised over what top-p and top-k leave.

    host: where vLLM runs. max_rows: completions decoded side by side. max_model_len: longest sequence (prompt and
    response, tokens) that room is made for; null: what the model was built for. retries: how often a call is repeated
    on a fresh vLLM when it dies. tolerance: largest difference in nats from the policy's own log-probs on a short
    greedy probe after each sync; null: what rounding explains. dtype: what weights are rounded to for rollouts, such as
    bfloat16; null: the policy's.
    """

    def __init__(
        self,
        *,
        host: HostSettings[S],
        max_rows: int,
        max_model_len: int | None,
        retries: int,
        tolerance: float | None,
        dtype: str | None = None,
    ) -> None:
        if max_rows < 1 or (max_model_len is not None and max_model_len < 2):
            raise ValueError("engine.max_rows must be at least 1 and engine.max_model_len null or at least 2")
        if retries < 0 or (tolerance is not None and tolerance <= 0):
            raise ValueError(
                f"engine.retries must be at least 0 and engine.tolerance null or positive, got {retries}, {tolerance}"
            )
        self._settings, self._max_rows, self._max_model_len = host, max_rows, max_model_len
        self._retries, self._tolerance = retries, tolerance
        self._dtype = rollout_dtype(dtype)
        self._host: Host[S] | None = None
        self._snapshot: S | None = None
        self._tokenizer: PreTrainedTokenizerBase | None = None
        self._eos_ids: tuple[int, ...] = ()
        self._context: int | None = None

    # ---- weights -------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def sync(self, policy: Policy, *, ranks: Ranks = _ALONE) -> None:
        """Takes a copy of the policy's weights, or of its adapters; raises RuntimeError when a probe shows they differ.

        Of several processes all have to call it, and only the first can draw afterwards. Where the policy is not split
        over them the others may hold its outline.
        """
        if ranks.first:
            self._take(policy)
        elif adapter_rank(policy.model):  # what is split is put together by all ranks
            gather_adapters(policy)
        else:
            take_part(serving_parts(policy, dtype=self._dtype))
        self.verify(policy, ranks=ranks)

    def _take(self, policy: Policy) -> None:
        if self._host is None:
            self._host = acquire(self._settings, owner=self, max_rows=self._max_rows, max_tokens=self._max_model_len)
        before, self._snapshot = self._snapshot, self._host.take(policy, dtype=self._dtype)
        if before is not None:
            self._host.forget(before)
        self._tokenizer, self._eos_ids, self._context = policy.tokenizer, policy.eos_ids(), policy.context()

    @torch.no_grad()
    def verify(self, policy: Policy, *, ranks: Ranks = _ALONE) -> None:
        """Raises RuntimeError when the engine's log-probs on a short probe are not those of `policy`.

        Or when the checksums of its weights say that they are not those of the last sync. Of several processes all
        have to call it, but the first alone compares unless it takes all of them to run the policy.
        """
        probes = probe_prompts(policy)
        answers = ranks.shared(self._draw)(probe_requests(probes, tokens=_PROBE_TOKENS))
        ranks.shared(self._check)()
        if not (ranks.first or isinstance(policy.model, FSDPModule)):
            return
        for probe, drawn in zip(probes, answers, strict=True):
            reference = policy_logprobs(policy, [*probe, *drawn.token_ids])[len(probe) - 1 : -1]
            expected = reference.gather(1, torch.tensor(drawn.token_ids)[:, None]).squeeze(1)
            require_agreement(
                torch.tensor(drawn.logprobs), expected, largest=float(reference.abs().max()),
                dtype=coarser(policy.model.dtype, self._dtype or policy.model.dtype), tolerance=self._tolerance,
            )  # fmt: skip

    def _check(self) -> None:
        assert self._host is not None
        assert self._snapshot is not None
        self._host.check(self._snapshot)

    def rest(self) -> None:
        """Gives up what `sleep_level` of the host says, until something is drawn again."""
        if self._host is not None:
            self._host.rest()

    def close(self) -> None:
        """Lets go of the weights and, when no other engine uses it, of vLLM; the engine can be synced again."""
        if self._host is not None:
            if self._snapshot is not None:
                self._host.forget(self._snapshot)
            release(self._host, owner=self)
        self._host = self._snapshot = self._tokenizer = None

    def across(self, ranks: Ranks) -> ServedEngine:
        """Returns the engine through which the first of several processes draws for all.

        Raises ValueError for vLLM in this process.
        """
        if not self._settings.served:
            raise ValueError(one_process_only(self))
        return ServedEngine(self, ranks)

    # ---- rollouts ------------------------------------------------------------------------------------------------

    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        *,
        progress: Progress | None = None,
        share: tuple[int, int] = (0, 1),
    ) -> list[Group]:
        """`sampling.n` completions per prompt, in the order of the prompts. `progress` counts those
        that servers have finished; vLLM in this process is counted once, at the end.

        share: (part, parts) draws only that part of all rows, counted prompt by prompt; groups then lack the others.

        Raises RuntimeError before the first sync and when vLLM keeps dying, and ValueError for an empty prompt or one
        that leaves the model's context no room for a response.
        """
        tokenizer = self._ready()
        prompt_ids = encode_all(tokenizer, prompts, context=self._context)
        rows = rows_of_share(prompt_ids, sampling, context=self._context, share=share)
        drawn = self._draw(row_requests(rows, prompt_ids, sampling, eos_ids=self._eos_ids), progress=progress)
        completions = zip(rows, self._completions(drawn, tokenizer), strict=True)
        return to_groups(prompts, prompt_ids, list(completions))

    def texts(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, progress: Progress | None = None
    ) -> list[list[str]]:
        """Returns the texts of `generate` alone: a server is spared the log-probs, and the wire 95 % of its bytes."""
        requests = self._text_requests(prompts, sampling)
        texts = iter(self._texts(self._draw(requests, progress=progress)))
        return [list(itertools.islice(texts, sampling.n)) for _ in prompts]

    def beside(self, other: RolloutEngine) -> bool:
        """Returns whether the weights of both are there at the same time: adapters of one rank over one base are."""
        if not isinstance(other, VllmEngine) or self._host is not other._host:
            return False
        host, mine, theirs = self._host, self._snapshot, other._snapshot
        return host is not None and mine is not None and theirs is not None and host.beside(mine, theirs)

    def generate_and_ask(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        *,
        ask: Ask,
        other: RolloutEngine,
        answers: Sampling,
        progress: Progress | None = None,
    ) -> tuple[list[Group], list[list[str] | None]]:
        """Returns what `generate` does and, for each completion in order, what `other` answers to what it makes us ask.

        They are the texts that `other.generate` gives for all such prompts in one call, and are drawn while rows of
        the first kind still are. The number that a prompt has in its call, and hence its seeds, is known as soon as the
        completions before have been read.

        Raises as `generate` does, ValueError for an engine that is not `beside` this one.
        """
        if not isinstance(other, VllmEngine) or not self.beside(other):
            raise ValueError("only policies whose adapters are served beside one another can be drawn from at once")
        tokenizer = self._ready()
        prompt_ids = encode_all(tokenizer, prompts, context=self._context)
        rows = rows_of_share(prompt_ids, sampling, context=self._context, share=(0, 1))
        requests = row_requests(rows, prompt_ids, sampling, eos_ids=self._eos_ids)

        def work(host: Host[S], snapshot: S) -> tuple[list[Drawn], list[list[Drawn]]]:
            numbers = itertools.count()

            def follow(drawn: Drawn) -> list[RowRequest]:
                [completion] = self._completions([drawn], tokenizer)
                prompt = ask(completion.text)
                return [] if prompt is None else other._text_requests([prompt], answers, first=next(numbers))

            finished = Finished(progress)
            return host.draw_and_follow(requests, snapshot, follow=follow, of=other._loaded(host), finished=finished)

        drawn, answered = self._working(work)
        groups = to_groups(prompts, prompt_ids, list(zip(rows, self._completions(drawn, tokenizer), strict=True)))
        return groups, [other._texts(group) if group else None for group in answered]

    def _ready(self) -> PreTrainedTokenizerBase:
        if self._snapshot is None or self._tokenizer is None:
            raise RuntimeError("the engine has no weights yet: call sync(policy) before generate()")
        return self._tokenizer

    def _text_requests(self, prompts: Sequence[Prompt], sampling: Sampling, *, first: int = 0) -> list[RowRequest]:
        """Requests without log-probs. first: the index in its call of the first of these prompts."""
        ids = encode_all(self._ready(), prompts, context=self._context)
        rows = rows_of_share(ids, sampling, context=self._context, share=(0, 1))
        return row_requests(rows, ids, sampling, eos_ids=self._eos_ids, first=first, logprobs=False)

    def _texts(self, drawn: Sequence[Drawn]) -> list[str]:
        return [completion.text for completion in self._completions(drawn, self._ready())]

    def _completions(self, drawn: Sequence[Drawn], tokenizer: PreTrainedTokenizerBase) -> list[Completion]:
        return to_completions(
            [row.token_ids for row in drawn],
            [row.logprobs for row in drawn],
            stopped=[row.token_ids[-1] in self._eos_ids for row in drawn],
            tokenizer=tokenizer,
        )

    def _draw(self, requests: Sequence[RowRequest], *, progress: Progress | None = None) -> list[Drawn]:
        if not requests:
            return []
        return self._working(lambda host, snapshot: host.draw(requests, snapshot, finished=Finished(progress)))

    def _loaded(self, host: Host[S]) -> S:
        """The snapshot of this engine, which the host has then."""
        assert self._snapshot is not None
        longest = host.load(self._snapshot)
        self._context = min(longest, self._context or longest)
        return self._snapshot

    def _working(self, work: Callable[[Host[S], S], T]) -> T:
        """`work(host, snapshot)` with the weights loaded, again when vLLM dies."""
        host = self._host
        assert host is not None
        return retry_when_dead(lambda: work(host, self._loaded(host)), revive=host.restart, retries=self._retries)
