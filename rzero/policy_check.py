"""What is known of a policy before its first token: can it be saved, how is it asked, and can its replies be read.

    for finding in findings(policy, prompts):
        print(finding.state, finding.subject, finding.text)

Models, tokenizers and templates come from strangers. What can be put right is (`rzero.repairs`, `rzero.prompts`), what
cannot stops a run before anything is drawn; either is said.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Literal, Protocol

import torch

from rzero.adapters import unwrap_adapters
from rzero.engines.rows import MARKERS, encode_all, to_completions
from rzero.escaping import terminal_text
from rzero.modes import in_mode
from rzero.modules.logprobs import head_weight
from rzero.parsing import CLOSE, OPEN, parse_question
from rzero.policy import Policy
from rzero.prompts import QUESTION_SLOT, control_token_ids, day_of, opened_thinking, set_day, takes_system
from rzero.types import Prompt

TEMPLATE = "chat template"
"""The subject without which prompts cannot be shown."""

State = Literal["fine", "note", "refused"]
"""As it should be; worth knowing; a run would fail or learn nothing."""


class Asks(Protocol):
    """What of `rzero.prompts.Prompts` is looked at."""

    def challenger(self) -> Prompt: ...

    def solver(self, question: str) -> Prompt: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at. `text` holds no control characters: much of it is a stranger's."""

    subject: str
    state: State
    text: str

    def line(self) -> str:
        """Returns what a run says of it."""
        return f"{self.state}: policy, {self.subject}: {self.text}"


def findings(policy: Policy, prompts: Asks) -> list[Finding]:
    """Returns everything that is known of a policy that is to be trained with these prompts, in a fixed order."""
    rows = [*_files(policy), *_head(policy), *_passes(policy), *_ends(policy), *_template(policy, prompts)]
    if not any(state == "refused" and subject == TEMPLATE for subject, state, _ in rows):
        rows += [*_requests(policy, prompts), *_replies(policy)]
    return [Finding(subject=subject, state=state, text=terminal_text(text)) for subject, state, text in rows]


def requests(policy: Policy, prompts: Asks) -> dict[str, tuple[int, str]]:
    """Returns what Challenger and Solver see, by role: how many tokens, and their text with all control tokens.

    In the Solver's, `{question}` stands for the question. Raises ValueError when the chat template cannot be used.
    """
    seen = {}
    for role, prompt in _asked(prompts).items():
        [ids] = encode_all(policy.tokenizer, [prompt], context=None)
        text = policy.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        seen[role] = len(ids), str(text)
    return seen


@dataclass(slots=True, kw_only=True)
class CheckedLoader:
    """Loads policies as `load` does, with the run's date in their prompts; the first one is looked at and told of.

    load: a policy from a path or hub id. day: the date for chat templates that ask for one. say: is told what is worth
    knowing. looked: whether that has been done, or is another process' part. Calling it raises ValueError, naming
    everything, when a run with this policy would fail or learn nothing.
    """

    load: Callable[..., Policy]
    prompts: Asks
    day: Callable[[], date]
    say: Callable[[str], None]
    looked: bool = False

    def __call__(self, path: str, **more: object) -> Policy:
        policy = self.load(path, **more)
        set_day(policy.tokenizer, self.day())
        if not self.looked:
            found = findings(policy, self.prompts)
            for finding in found:
                if finding.state == "note":
                    self.say(finding.line())
            if refused := [f"{finding.subject}: {finding.text}" for finding in found if finding.state == "refused"]:
                raise ValueError(f"this policy cannot be trained; {'; '.join(refused)}")
            self.looked = True
        return policy


_Row = tuple[str, State, str]


def _asked(prompts: Asks) -> dict[str, Prompt]:
    return {"Challenger": prompts.challenger(), "Solver": prompts.solver(QUESTION_SLOT)}


def _files(policy: Policy) -> Iterator[_Row]:
    try:
        _dry_save(policy)
    except ValueError as error:
        yield "saving", "refused", str(error)
    else:
        yield "saving", "fine", "config, generation config and tokenizer can be saved again"
    for note in policy.notes:
        yield "loading", "note", note


def _dry_save(policy: Policy) -> None:
    """Saves everything but the weights into a folder that is thrown away."""
    model = unwrap_adapters(policy.model)
    with tempfile.TemporaryDirectory() as folder:
        try:
            for part in (model.config, model.generation_config, policy.tokenizer):
                if part is not None:
                    part.save_pretrained(folder)
        except Exception as error:  # transformers and tokenizers each raise their own types for what they cannot write
            told = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
            raise ValueError(f"it cannot be saved again: {told}") from error


def _passes(policy: Policy) -> Iterator[_Row]:
    """Whether training mode is free of chance, which no list of a model's settings could say for sure."""
    model = unwrap_adapters(policy.model)
    ids_1T = torch.tensor([[(7 * i + 3) % policy.vocabulary() for i in range(6)]], device=model.device)
    with torch.no_grad(), torch.random.fork_rng(devices=[]), in_mode(policy.model, training=True):
        first, second = (model(input_ids=ids_1T, use_cache=False).logits.float() for _ in range(2))
    if torch.allclose(first, second, rtol=1e-3, atol=1e-3):
        yield "two passes", "fine", "give the same log-probs in training mode"
    else:
        said = "give other log-probs in training mode; set every dropout and noise in its config.json to 0"
        yield "two passes", "refused", said


def _ends(policy: Policy) -> Iterator[_Row]:
    tokenizer, ends = policy.tokenizer, policy.eos_ids()
    names = ", ".join(f"{tokenizer.convert_ids_to_tokens(i)} ({i})" for i in ends)
    if ends:
        yield "end of sequence", "fine", f"{names} {'end' if len(ends) > 1 else 'ends'} a response"
    else:
        yield "end of sequence", "note", "there is none: every response runs into its token limit"
    pad = policy.pad_id()
    shared = " (which still is learned: what counts is known by position)" if pad in ends else ""
    yield "padding", "fine", f"{tokenizer.convert_ids_to_tokens(pad)} ({pad}){shared}"
    rows, tokens = policy.vocabulary(), len(tokenizer)
    spare = f"; {rows - tokens} rows have no token: drawn, they are no text" if rows > tokens else ""
    yield "embeddings", "fine", f"{rows} rows for {tokens} tokens{spare}"


def _template(policy: Policy, prompts: Asks) -> Iterator[_Row]:
    """Whether requests become tokens at all; where they do not, nothing more can be said of them."""
    tokenizer = policy.tokenizer
    try:
        encoded = encode_all(tokenizer, list(_asked(prompts).values()), context=policy.context())
    except ValueError as error:
        yield TEMPLATE, "refused", str(error)
        return
    if tokenizer.chat_template is None:
        yield TEMPLATE, "fine", "there is none: system: ... user: ... assistant:"
    else:
        yield TEMPLATE, "fine", "shows the user text once"
    yield _beginning(policy, encoded)


def _requests(policy: Policy, prompts: Asks) -> Iterator[_Row]:
    """How requests become tokens."""
    tokenizer = policy.tokenizer
    has_system = any(prompt.system for prompt in _asked(prompts).values())
    if not takes_system(tokenizer) and has_system:
        yield "system text", "note", "the chat template knows no system role; the text stands in front of the user text"
    else:
        yield "system text", "fine", "has a place of its own" if has_system else "there is none"
    if (day := day_of(tokenizer)) is not None:
        yield "date", "note", f"the chat template shows the date; it is {day} for as long as the run lasts"
    else:
        yield "date", "fine", "prompts do not depend on it"
    if opened := opened_thinking(tokenizer):
        yield (
            "thinking",
            "note",
            f"the chat template opens a response with {opened!r}; it counts as part of the response",
        )
    yield _forged(policy, prompts)


def _beginning(policy: Policy, encoded: Sequence[Sequence[int]]) -> _Row:
    bos = policy.tokenizer.bos_token_id
    counts = {list(ids).count(bos) for ids in encoded} if bos is not None else {0}
    habit = bos is not None and bos in policy.tokenizer("", add_special_tokens=True)["input_ids"]
    if counts == {1} or (counts == {0} and not habit):
        return "beginning of sequence", "fine", f"{policy.tokenizer.bos_token} once" if counts == {1} else "none"
    if counts == {0}:
        said = f"the tokenizer opens texts with {policy.tokenizer.bos_token}, its chat template does not"
        return "beginning of sequence", "note", said
    return "beginning of sequence", "note", f"{policy.tokenizer.bos_token} {max(counts)} times"


def _forged(policy: Policy, prompts: Asks) -> _Row:
    """Control tokens in a question, which another model wrote."""
    controls = control_token_ids(policy.tokenizer)
    written = [str(policy.tokenizer.convert_ids_to_tokens(i)) for i in sorted(controls)]
    plain, forged = (
        [i for i in encode_all(policy.tokenizer, [prompts.solver(text)], context=None)[0] if i in controls]
        for text in ("ab", "".join(f"a{token}b" for token in written))
    )
    if plain == forged:
        return "control tokens", "fine", f"{len(controls)}, none of which a question can bring in"
    return "control tokens", "refused", "a question can bring them into the prompt"


def _replies(policy: Policy) -> Iterator[_Row]:
    """Whether what the contract asks for survives the way into tokens and back."""
    special = {str(token) for token in policy.tokenizer.added_tokens_decoder.values() if token.special}
    reply = f"{OPEN}\nWhat is 1 + 2?\n{CLOSE}\n\n\\boxed{{3}}"
    question = parse_question(_there_and_back(policy, reply))
    if question is None or question.answer is None:
        yield "replies", "note", f"{OPEN}...{CLOSE} and a box do not survive this tokenizer: no question can be read"
    elif kept := [marker for marker in MARKERS if marker in special]:
        yield (
            "replies",
            "note",
            f"the tokenizer calls {' '.join(kept)} special; they are read in responses all the same",
        )
    else:
        yield "replies", "fine", "question block, thinking and box survive the tokenizer"


def _there_and_back(policy: Policy, text: str) -> str:
    ids = policy.tokenizer(text, add_special_tokens=False)["input_ids"]
    [completion] = to_completions([ids], [[0.0] * len(ids)], stopped=[False], tokenizer=policy.tokenizer)
    return completion.text


def _head(policy: Policy) -> Iterator[_Row]:
    try:
        head_weight(unwrap_adapters(policy.model))
    except ValueError as error:
        yield "head", "refused", str(error)
