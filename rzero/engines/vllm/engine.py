"""Rollouts by vLLM, in this process or behind servers: the choice is the host (`conf/engine/vllm*.yaml`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

import torch
from transformers import PreTrainedTokenizerBase

from rzero.engines.across import ServedEngine, one_process_only
from rzero.engines.rows import encode_all, rows_of_share, to_completions, to_groups
from rzero.engines.verification import coarser, policy_logprobs, probe_prompts, require_agreement, rollout_dtype
from rzero.engines.vllm.hosts import Host, HostSettings, acquire, release
from rzero.engines.vllm.requests import Drawn, RowRequest, probe_requests, row_requests
from rzero.engines.vllm.retry import retry_when_dead
from rzero.engines.vllm.snapshot import serving_parts
from rzero.gathering import take_part
from rzero.interfaces import Progress
from rzero.policy import Policy
from rzero.processes.ranks import Ranks
from rzero.types import Group, Prompt, Sampling

S = TypeVar("S")

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
        """Takes a copy of the policy's weights, LoRA merged; raises RuntimeError when a probe shows they differ.

        Of several processes all have to call it, and only the first can draw afterwards.
        """
        if ranks.first:
            self._take(policy)
        else:
            take_part(serving_parts(policy, dtype=self._dtype))  # split weights are put together by all ranks
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

        Or when the checksums of its weights say that they are not those of the last sync.
        """
        ranks.shared(self._check)()  # first: after a call vLLM may sleep
        probes = probe_prompts(policy)
        answers = ranks.shared(self._draw)(probe_requests(probes, tokens=_PROBE_TOKENS))
        for probe, drawn in zip(probes, answers, strict=True):
            reference = policy_logprobs(policy, [*probe, *drawn.token_ids])[len(probe) - 1 : -1]
            expected = reference.gather(1, torch.tensor(drawn.token_ids)[:, None]).squeeze(1)
            require_agreement(
                torch.tensor(drawn.logprobs), expected, largest=float(reference.abs().max()),
                dtype=coarser(policy.model.dtype, self._dtype or policy.model.dtype), tolerance=self._tolerance,
            )  # fmt: skip

    def _check(self) -> None:
        host, snapshot = self._host, self._snapshot
        assert host is not None
        assert snapshot is not None

        def work() -> None:
            host.load(snapshot)
            host.check(snapshot)

        retry_when_dead(work, revive=host.restart, retries=self._retries)

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
        """`sampling.n` completions per prompt, in the order of the prompts. `progress(done, total)`: once, at the end.

        share: (part, parts) draws only that part of all rows, counted prompt by prompt; groups then lack the others.

        Raises RuntimeError before the first sync and when vLLM keeps dying, and ValueError for an empty prompt or one
        that leaves the model's context no room for a response.
        """
        if self._snapshot is None or self._tokenizer is None:
            raise RuntimeError("the engine has no weights yet: call sync(policy) before generate()")
        prompt_ids = encode_all(self._tokenizer, prompts, context=self._context)
        rows = rows_of_share(prompt_ids, sampling, context=self._context, share=share)
        drawn = self._draw(row_requests(rows, prompt_ids, sampling, eos_ids=self._eos_ids))
        completions = to_completions(
            [row.token_ids for row in drawn],
            [row.logprobs for row in drawn],
            stopped=[row.token_ids[-1] in self._eos_ids for row in drawn],
            tokenizer=self._tokenizer,
        )
        if progress is not None and rows:
            progress(len(rows), len(rows))
        return to_groups(prompts, prompt_ids, list(zip(rows, completions, strict=True)))

    def _draw(self, requests: Sequence[RowRequest]) -> list[Drawn]:
        host, snapshot = self._host, self._snapshot
        assert host is not None
        assert snapshot is not None
        if not requests:
            return []

        def work() -> list[Drawn]:
            longest = host.load(snapshot)
            self._context = min(longest, self._context or longest)
            return host.draw(requests)

        return retry_when_dead(work, revive=host.restart, retries=self._retries)
