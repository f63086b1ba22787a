"""An engine with canned replies: the loop around it can be tested without a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from transformers import PreTrainedTokenizerBase

from rzero.interfaces import Progress
from rzero.policy import Policy
from rzero.prompts import encode_prompt
from rzero.types import Completion, FinishReason, Group, Prompt, Sampling
from tests.tiny_models import build_tokenizer

Script = Callable[[Prompt, int], str] | Mapping[str, str | Sequence[str]]


class ScriptedEngine:
    """Replies from a script: `script(prompt, sample_index)`, or a mapping from the user text to a reply or a list of
    replies that is gone through in a circle.

    Without a policy, tokens are the UTF-8 bytes of a reply; after `sync` they are the policy's tokens, closed by its
    eos. Log-probs are 0. A reply longer than `sampling.max_tokens` is cut and finishes with "length".

    `calls` and `synced` keep what the engine was asked, for assertions.
    """

    def __init__(self, script: Script) -> None:
        self._script = script
        self._policy: Policy | None = None
        self.calls: list[tuple[tuple[Prompt, ...], Sampling]] = []
        self.synced: list[Policy] = []

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, progress: Progress | None = None
    ) -> list[Group]:
        """Raises KeyError when the script has no reply for a prompt."""
        self.calls.append((tuple(prompts), sampling))
        groups = []
        for done, prompt in enumerate(prompts, start=1):
            replies = [self._complete(self._reply(prompt, i), sampling.max_tokens) for i in range(sampling.n)]
            groups.append(Group(prompt=prompt, prompt_ids=tuple(self._encode(prompt)), completions=tuple(replies)))
            if progress is not None:
                progress(done * sampling.n, len(prompts) * sampling.n)
        return groups

    def sync(self, policy: Policy) -> None:
        self._policy = policy
        self.synced.append(policy)

    def close(self) -> None:
        self._policy = None

    def _reply(self, prompt: Prompt, sample: int) -> str:
        if callable(self._script):
            return self._script(prompt, sample)
        if prompt.user not in self._script:
            raise KeyError(f"the script has no reply to {prompt.user!r}")
        reply = self._script[prompt.user]
        return reply if isinstance(reply, str) else reply[sample % len(reply)]

    def _encode(self, prompt: Prompt) -> list[int]:
        if self._policy is None:
            return list(f"{prompt.system or ''}\n{prompt.user}".encode(errors="replace"))
        return encode_prompt(self._policy.tokenizer, prompt)

    def _complete(self, reply: str, max_tokens: int) -> Completion:
        if self._policy is None:
            ids, closing = list(reply.encode(errors="replace")), []
        else:
            tokenizer = self._policy.tokenizer
            ids = tokenizer(reply, add_special_tokens=False)["input_ids"]
            closing = list(self._policy.eos_ids()[:1])
        reason: FinishReason = "stop"
        if len(ids) + len(closing) > max_tokens:
            ids, closing, reason = ids[:max_tokens], [], "length"
            reply = bytes(ids).decode(errors="replace") if self._policy is None else tokenizer.decode(ids)
        token_ids = (*ids, *closing)
        return Completion(text=reply, token_ids=token_ids, logprobs=(0.0,) * len(token_ids), finish_reason=reason)


@dataclass(kw_only=True)
class NamedPolicy:
    """A policy that is nothing but a name, a tokenizer and a context: what an evaluation knows of one."""

    name: str = "w"
    tokenizer: PreTrainedTokenizerBase = field(default_factory=build_tokenizer)
    ends: tuple[int, ...] = (1,)
    longest: int | None = None

    def weights_hash(self) -> str:
        return self.name

    def eos_ids(self) -> tuple[int, ...]:
        return self.ends

    def context(self) -> int | None:
        return self.longest
