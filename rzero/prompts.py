"""The requests put to the two roles, and their way from chat messages to token ids.

Text a model wrote (a generated question) is data. It travels inside `Prompt.user` and can never become a control token:
the chat template is rendered around a placeholder, and the stretch between the two control tokens that enclose the
user text is tokenised with control tokens switched off. For text without control tokens the ids equal those of the
ordinary encoding, because a tokenizer cuts its input at control tokens before it does anything else.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from jinja2.exceptions import TemplateError

from rzero.types import Json, Prompt

if TYPE_CHECKING:  # slow to import, and texts are read without it
    from transformers import PreTrainedTokenizerBase

QUESTION_SLOT = "{question}"
PLAIN_MARKERS = ("system:", "user:", "assistant:")
"""Beginnings of the turns of the plain form, which is asked for where a tokenizer has no chat template."""
THINK, END_OF_THINK = "<think>", "</think>"
"""What encloses a model's thinking, where it was trained to show it."""
FILE_PREFIX = "file:"
# Letters only: a placeholder must survive any template untouched, and no template or system text contains it.
_PLACEHOLDER = "RZEROUSERTEXTGOESHERE"
_SYSTEM_PLACEHOLDER = "RZEROSYSTEMTEXTGOESHERE"
_CLOCK = "strftime_now"
_TEMPLATE_ERRORS = (TemplateError, TypeError, ValueError, LookupError, AttributeError)
"""What rendering raises for a template that refuses what it is given, or was written for something else."""
_MEMO_SIZE = 4096


class Prompts:
    """The requests put to the Challenger and the Solver.

    Every text may be given literally or as `file:<path>`. `solver_user` holds the literal `{question}`, which is
    replaced as plain text, so braces in a question mean nothing. An empty system text means no system message.

    Raises ValueError when `solver_user` lacks the slot, FileNotFoundError when a text file is missing.
    """

    def __init__(self, *, challenger_system: str, challenger_user: str, solver_system: str, solver_user: str) -> None:
        self._challenger = Prompt(system=_read_text(challenger_system) or None, user=_read_text(challenger_user))
        self._solver_system = _read_text(solver_system) or None
        self._solver_user = _read_text(solver_user)
        if QUESTION_SLOT not in self._solver_user:
            raise ValueError(f"prompts.solver_user must contain {QUESTION_SLOT}, got {self._solver_user!r}")

    def challenger(self) -> Prompt:
        """The one fixed request the Challenger answers with a question (docs/method.md#contracts)."""
        return self._challenger

    def solver(self, question: str) -> Prompt:
        """The request that puts `question` to the Solver."""
        return Prompt(system=self._solver_system, user=self._solver_user.replace(QUESTION_SLOT, question))


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> list[int]:
    """Returns the token ids of `prompt` up to where the response begins.

    Uses the tokenizer's chat template where it has one, else `system: ...\\nuser: ...\\nassistant: ` (opened by the bos
    token where the tokenizer has the habit). A template that refuses or drops system messages gets the system text in
    front of the user text (`takes_system`), and one that asks for the date is told that of `set_day`. Lone surrogates,
    which no tokenizer accepts, become U+FFFD.

    Raises ValueError when the template cannot be rendered or does not show the user text exactly once.
    """
    return list(_encoder(tokenizer).encode(prompt, tokenizer=tokenizer))


def set_day(tokenizer: PreTrainedTokenizerBase, day: date) -> None:
    """Fixes the date that chat templates are told; without it, it is the day (UTC) of the first prompt."""
    _DAYS[tokenizer] = day


def day_of(tokenizer: PreTrainedTokenizerBase) -> date | None:
    """Returns the date that is in the prompts of this tokenizer; None where its chat template shows none."""
    if tokenizer.chat_template is None or _CLOCK not in str(tokenizer.chat_template):
        return None
    asked, days = [{"role": "user", "content": _PLACEHOLDER}], (date(2001, 2, 3), date(2014, 11, 25))
    shown = {_apply_template(asked, tokenizer=tokenizer, day=day) for day in days}
    return _DAYS[tokenizer] if len(shown) > 1 else None


def takes_system(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Returns whether a system text has a place of its own; else it stands in front of the user text."""
    return _encoder(tokenizer).takes_system


def opened_thinking(tokenizer: PreTrainedTokenizerBase) -> str:
    """Returns what of a response the prompt has written already: `<think>` and what follows it, else the empty text.

    Some chat templates open (or open and close) the thinking themselves; the model then goes on inside of it.
    """
    return _encoder(tokenizer).thinking


def _encoder(tokenizer: PreTrainedTokenizerBase) -> _PromptEncoder:
    encoder = _ENCODERS.get(tokenizer)
    # A changed template, date or an added token must not be served from the memo.
    if encoder is None or encoder.stamp != _stamp(tokenizer):
        encoder = _ENCODERS[tokenizer] = _PromptEncoder(tokenizer)
    return encoder


def control_token_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Returns the ids that no user text may produce.

    These are all added tokens except white space (layout) and the unknown token (a substitute). `all_special_ids` is
    not enough: it omits most chat markers of many tokenizers.
    """
    return frozenset(
        token_id
        for token_id, token in tokenizer.added_tokens_decoder.items()
        if str(token).strip() and token_id != tokenizer.unk_token_id
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Frame:
    """A rendered request cut open around the user text: ids before, loose text before and after it, ids behind."""

    head_ids: tuple[int, ...]
    head_text: str
    tail_text: str
    tail_ids: tuple[int, ...]


@dataclass(slots=True)
class _PromptEncoder:
    """Encodes for one tokenizer. Holds no reference to it, so that the weak table below can let go of both."""

    stamp: tuple[str, int, date]
    control_ids: frozenset[int]
    control_text: re.Pattern[str]
    takes_system: bool
    thinking: str
    frames: dict[tuple[str | None, str, str], _Frame] = field(default_factory=dict)
    memo: dict[Prompt, tuple[int, ...]] = field(default_factory=dict)

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.stamp = _stamp(tokenizer)
        self.control_ids = control_token_ids(tokenizer)
        literals = sorted((str(tokenizer.added_tokens_decoder[i]) for i in self.control_ids), key=len, reverse=True)
        self.control_text = re.compile("|".join(map(re.escape, literals)) or r"(?!)")
        self.takes_system = _takes_system(tokenizer)
        _, _, tail = _render(None, _PLACEHOLDER, tokenizer=tokenizer, takes_system=True).rpartition(_PLACEHOLDER)
        self.thinking = tail[tail.rfind(THINK) :] if THINK in tail else ""
        self.frames = {}
        self.memo = {}

    def encode(self, prompt: Prompt, *, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
        ids = self.memo.get(prompt)
        if ids is None:
            user = replace_surrogates(prompt.user)
            core = user.strip()
            # Templates that trim the message trim these margins around the placeholder as they would around the text.
            margins = (user[: user.index(core)], user[user.index(core) + len(core) :]) if core else (user, "")
            frame = self._frame(prompt.system, *margins, tokenizer=tokenizer)
            span_ids = self._encode_data(frame.head_text + core + frame.tail_text, tokenizer=tokenizer)
            ids = (*frame.head_ids, *span_ids, *frame.tail_ids)
            if len(self.memo) >= _MEMO_SIZE:
                self.memo.clear()
            self.memo[prompt] = ids
        return ids

    def _frame(self, system: str | None, left: str, right: str, *, tokenizer: PreTrainedTokenizerBase) -> _Frame:
        key = (system, left, right)
        if key not in self.frames:
            if len(self.frames) >= _MEMO_SIZE:
                self.frames.clear()
            user = left + _PLACEHOLDER + right
            rendered = _render(system, user, tokenizer=tokenizer, takes_system=self.takes_system)
            self.frames[key] = self._cut(rendered, tokenizer)
        return self.frames[key]

    def _cut(self, rendered: str, tokenizer: PreTrainedTokenizerBase) -> _Frame:
        head, *tails = rendered.split(_PLACEHOLDER)
        if len(tails) != 1:
            raise ValueError(f"the chat template shows the user text {len(tails)} times, it must do so exactly once")
        tail = tails[0]
        last = max((match.end() for match in self.control_text.finditer(head)), default=0)
        first = match.start() if (match := self.control_text.search(tail)) else len(tail)
        head_ids = _encode_text(head[:last], tokenizer=tokenizer)
        if tokenizer.chat_template is None:
            head_ids = _opening_ids(tokenizer) + head_ids
        return _Frame(
            head_ids=tuple(head_ids),
            head_text=head[last:],
            tail_text=tail[:first],
            tail_ids=tuple(_encode_text(tail[first:], tokenizer=tokenizer)),
        )

    def _encode_data(self, text: str, *, tokenizer: PreTrainedTokenizerBase) -> list[int]:
        """Ids of `text` without any control id: a control literal is cut behind its first character."""
        cuts, start = [0], 0
        while match := self.control_text.search(text, start):
            start = match.start() + 1
            cuts.append(start)
        cuts.append(len(text))
        pieces = [text[a:b] for a, b in itertools.pairwise(cuts)]
        ids = [i for piece in pieces for i in _encode_text(piece, tokenizer=tokenizer, control_tokens=False)]
        if self.control_ids.isdisjoint(ids):
            return ids
        # A normaliser can spell a control token out of other characters. Single characters cannot be combined; one
        # that is itself a control token has no other spelling and is dropped.
        ids = [i for character in text for i in _encode_text(character, tokenizer=tokenizer, control_tokens=False)]
        return [i for i in ids if i not in self.control_ids]


class _Days(WeakKeyDictionary["PreTrainedTokenizerBase", date]):
    """The date of each tokenizer's prompts: today's, and the same from then on, unless another was set."""

    def __getitem__(self, tokenizer: PreTrainedTokenizerBase) -> date:
        return self.setdefault(tokenizer, datetime.now(UTC).date())


_ENCODERS: WeakKeyDictionary[PreTrainedTokenizerBase, _PromptEncoder] = WeakKeyDictionary()
_DAYS = _Days()


def replace_surrogates(text: str) -> str:
    """`text` with surrogate pairs joined and lone surrogates replaced by U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _stamp(tokenizer: PreTrainedTokenizerBase) -> tuple[str, int, date]:
    return str(tokenizer.chat_template), len(tokenizer), _DAYS[tokenizer]


def _takes_system(tokenizer: PreTrainedTokenizerBase) -> bool:
    if tokenizer.chat_template is None:
        return True
    messages = [{"role": "system", "content": _SYSTEM_PLACEHOLDER}, {"role": "user", "content": _PLACEHOLDER}]
    try:
        shown = _apply_template(messages, tokenizer=tokenizer, day=_DAYS[tokenizer])
    except _TEMPLATE_ERRORS:  # the Gemma 2 way of saying that it knows no system role
        return False
    return _SYSTEM_PLACEHOLDER in shown and _PLACEHOLDER in shown


def _render(system: str | None, user: str, *, tokenizer: PreTrainedTokenizerBase, takes_system: bool) -> str:
    if tokenizer.chat_template is None:
        for_system, for_user, for_assistant = PLAIN_MARKERS
        opening = f"{for_system} {system}\n" if system is not None else ""
        return f"{opening}{for_user} {user}\n{for_assistant} "
    messages = [{"role": "user", "content": user}]
    if system is not None and takes_system:
        messages.insert(0, {"role": "system", "content": system})
    elif system is not None:
        messages = [{"role": "user", "content": f"{system}\n\n{user}"}]
    try:
        return _apply_template(messages, tokenizer=tokenizer, day=_DAYS[tokenizer])
    except _TEMPLATE_ERRORS as error:
        raise ValueError(f"the chat template cannot be rendered: {type(error).__name__}: {error}") from error


def _apply_template(messages: list[dict[str, str]], *, tokenizer: PreTrainedTokenizerBase, day: date) -> str:
    # a variable of this name goes before the function that transformers offers, which would look at the clock
    clock: Json = {_CLOCK: datetime.combine(day, time()).strftime} if _CLOCK in str(tokenizer.chat_template) else {}
    rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **clock)
    assert isinstance(rendered, str)
    return rendered


def _encode_text(text: str, *, tokenizer: PreTrainedTokenizerBase, control_tokens: bool = True) -> list[int]:
    if not text:
        return []
    return tokenizer(text, add_special_tokens=False, split_special_tokens=not control_tokens)["input_ids"]


def _opening_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The bos token, for tokenizers that open every text with it; a chat template writes its own."""
    ids = tokenizer("", add_special_tokens=True)["input_ids"]
    return ids[:1] if ids and ids[0] == tokenizer.bos_token_id else []


def _read_text(text: str) -> str:
    if not text.startswith(FILE_PREFIX):
        return text
    path = Path(text.removeprefix(FILE_PREFIX)).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"prompt file {path.resolve()} does not exist; give a path or the text itself")
    return path.read_text(encoding="utf-8").strip("\n")
