"""lm-eval's `LM` over a rollout engine: the engine that trains also answers the benchmarks.

lm-eval hands over every request `n` times in a row. They are put together again, so that an engine sees each prompt
once with n samples, and are generated in calls of a fixed size. The first call has the protocol's own seed and the
others seeds that depend on the task and the number of the call: a call that was made before an interruption need not be
made again, and the others come out as they would have.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

from evaluation.answering import Fits
from evaluation.store import Responses, TaskStore
from rzero.escaping import valid_unicode
from rzero.interfaces import Progress, RolloutEngine
from rzero.prompts import Prompts
from rzero.seeding import derive
from rzero.types import Prompt, Sampling


class EngineLM(LM):
    """Answers the `generate_until` requests of one task, `sampling.n` responses each.

    completions_per_call bounds prompts times samples of an engine call. fits: whether a prompt leaves the model's
    context room for a response; one that does not is answered with the empty text (None: all do). finished_only: a
    response that ran into the token limit is answered with the empty text too. progress counts responses while they
    are drawn. Afterwards `too_long` counts prompts that did not fit, `truncated` responses that ran into the
    token limit.
    """

    def __init__(
        self,
        engine: RolloutEngine,
        *,
        prompts: Prompts,
        sampling: Sampling,
        store: TaskStore,
        completions_per_call: int,
        fits: Fits | None = None,
        finished_only: bool = False,
        progress: Progress | None = None,
    ) -> None:
        super().__init__()
        if completions_per_call < 1:
            raise ValueError(f"benchmarks.completions_per_call must be at least 1, got {completions_per_call}")
        self.engine, self.prompts, self.sampling, self.store = engine, prompts, sampling, store
        self.completions_per_call, self.fits, self.progress = completions_per_call, fits, progress
        self.finished_only = finished_only
        self.too_long, self.truncated, self.tokens = 0, 0, 0

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Texts in the order of `requests`."""
        asked = requests[:: self.sampling.n]
        size = max(1, self.completions_per_call // self.sampling.n)
        texts: list[str] = []
        for call, start in enumerate(range(0, len(asked), size)):
            part = asked[start : start + size]
            seed = derive(self.sampling.seed, str(part[0].task_name), call) if call else self.sampling.seed
            responses = self._call(
                call,
                [self.prompts.solver(request.args[0]) for request in part],
                seed=seed,
                progress=self._counted(start, len(asked)),
            )
            self.truncated += sum(map(sum, responses.truncated))
            texts += self._answered(responses)
            if self.progress:
                self.progress((start + len(part)) * self.sampling.n, len(asked) * self.sampling.n, self.tokens)
        return texts

    def _answered(self, responses: Responses) -> Iterator[str]:
        """The texts of one call, in order, as they are judged."""
        chain = itertools.chain.from_iterable
        for text, truncated in zip(chain(responses.texts), chain(responses.truncated), strict=True):
            yield "" if truncated and self.finished_only else text

    def _counted(self, start: int, prompts: int) -> Progress | None:
        """What an engine tells of a call that begins with prompt `start`, as progress among all responses."""
        if (told := self.progress) is None:
            return None
        before, n = self.tokens, self.sampling.n

        def tell(done: int, total: int, tokens: int = 0, /) -> None:
            self.tokens = before + tokens
            told(start * n + done, prompts * n, self.tokens)

        return tell

    def _call(self, call: int, asked: Sequence[Prompt], *, seed: int, progress: Progress | None) -> Responses:
        fitting = [index for index, prompt in enumerate(asked) if self.fits is None or self.fits(prompt)]
        self.too_long += len(asked) - len(fitting)
        kept = self.store.responses(call)
        if kept is not None:
            return kept
        texts = [[""] * self.sampling.n for _ in asked]
        truncated = [[False] * self.sampling.n for _ in asked]
        sampling = replace(self.sampling, seed=seed)
        prompts = [asked[index] for index in fitting]
        groups = self.engine.generate(prompts, sampling, progress=progress) if fitting else []
        for index, group in zip(fitting, groups, strict=True):
            texts[index] = [valid_unicode(completion.text) for completion in group.completions]
            truncated[index] = [completion.finish_reason == "length" for completion in group.completions]
        responses = Responses(texts=texts, truncated=truncated)
        self.store.keep_responses(call, responses)
        return responses

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        raise NotImplementedError("rollout engines generate only; use tasks with output_type: generate_until")

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        raise NotImplementedError("rollout engines generate only; use tasks with output_type: generate_until")


def generation_options(sampling: Sampling) -> dict[str, object]:
    """`sampling` in the words of lm-eval's generation_kwargs."""
    options = {"until": [], "do_sample": sampling.temperature > 0, "temperature": sampling.temperature}
    return {**options, "top_p": sampling.top_p, "top_k": sampling.top_k, "max_gen_toks": sampling.max_tokens}
