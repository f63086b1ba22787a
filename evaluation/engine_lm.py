"""lm-eval's `LM` over a rollout engine: the engine that trains also answers the benchmarks.

lm-eval hands over every request `repeats` times in a row. They are put together again by (task, document), so that an
engine sees each prompt once with n samples, and are generated in calls of a fixed size whose seeds depend on the task
and the number of the call: a call that was made before an interruption need not be made again, and the others come out
as they would have.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

from evaluation.store import TaskStore
from rzero.escaping import valid_unicode
from rzero.interfaces import RolloutEngine
from rzero.prompts import Prompts
from rzero.seeding import derive
from rzero.types import Prompt, Sampling

Fits = Callable[[Prompt], bool]
OnCall = Callable[[int, int], None]
_KNOWN_OPTIONS = {"until", "do_sample", "temperature", "top_p", "top_k", "max_gen_toks"}


class EngineLM(LM):
    """Answers `generate_until` requests of one task.

    completions_per_call bounds prompts times samples of an engine call. fits: whether a prompt leaves the model's
    context room for a response; one that does not is answered with the empty text (None: all do). on_call(done, total)
    counts documents.
    """

    def __init__(
        self,
        engine: RolloutEngine,
        *,
        prompts: Prompts,
        store: TaskStore,
        seed: int,
        completions_per_call: int,
        fits: Fits | None = None,
        on_call: OnCall | None = None,
    ) -> None:
        super().__init__()
        if completions_per_call < 1:
            raise ValueError(f"benchmarks.completions_per_call must be at least 1, got {completions_per_call}")
        self.engine, self.prompts, self.store, self.seed = engine, prompts, store, seed
        self.completions_per_call, self.fits, self.on_call = completions_per_call, fits, on_call
        self.too_long = 0

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Texts in the order of `requests`. Raises ValueError for options an engine cannot honour."""
        groups = [list(group) for _, group in itertools.groupby(requests, key=lambda r: (r.task_name, r.doc_id))]
        if not groups:
            return []
        n, options = len(groups[0]), groups[0][0].args[1]
        if any(len(group) != n or group[0].args[1] != options for group in groups):
            raise ValueError("all documents of a task need the same number of samples and the same decoding")
        size = max(1, self.completions_per_call // n)
        texts: list[str] = []
        for chunk, start in enumerate(range(0, len(groups), size)):
            part = groups[start : start + size]
            asked = [self.prompts.solver(group[0].args[0]) for group in part]
            sampling = to_sampling(options, n=n, seed=derive(self.seed, str(part[0][0].task_name), chunk))
            texts += itertools.chain.from_iterable(self._call(chunk, asked, sampling))
            if self.on_call:
                self.on_call(start + len(part), len(groups))
        return texts

    def _call(self, chunk: int, asked: Sequence[Prompt], sampling: Sampling) -> list[list[str]]:
        fitting = [index for index, prompt in enumerate(asked) if self.fits is None or self.fits(prompt)]
        self.too_long += len(asked) - len(fitting)
        kept = self.store.responses(chunk)
        if kept is not None:
            return kept
        texts = [[""] * sampling.n for _ in asked]
        groups = self.engine.generate([asked[index] for index in fitting], sampling) if fitting else []
        for index, group in zip(fitting, groups, strict=True):
            texts[index] = [valid_unicode(completion.text) for completion in group.completions]
        truncated = sum(c.finish_reason == "length" for group in groups for c in group.completions)
        self.store.keep_responses(chunk, texts, truncated=truncated)
        return texts

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        raise NotImplementedError("rollout engines generate only; use tasks with output_type: generate_until")

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        raise NotImplementedError("rollout engines generate only; use tasks with output_type: generate_until")


def to_sampling(options: dict[str, Any], *, n: int, seed: int) -> Sampling:
    """lm-eval's generation_kwargs as a `Sampling`. Raises ValueError for what an engine cannot do."""
    if unknown := options.keys() - _KNOWN_OPTIONS:
        raise ValueError(f"generation_kwargs {', '.join(sorted(unknown))} mean nothing to a rollout engine")
    if options.get("until"):
        raise ValueError(f"a rollout engine stops at eos only; set until: [], got {options['until']!r}")
    temperature = float(options.get("temperature", 0.0))
    if bool(options.get("do_sample", temperature > 0)) != (temperature > 0):
        raise ValueError(f"do_sample={options['do_sample']} contradicts temperature={temperature}")
    return Sampling(
        n=n,
        temperature=temperature,
        top_p=float(options.get("top_p", 1.0)),
        top_k=int(options.get("top_k", 0)),
        max_tokens=int(options["max_gen_toks"]),
        seed=seed,
    )
