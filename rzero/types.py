"""The nouns of the method as frozen records.

Every record is immutable, slotted and keyword-only, so that a value that has been voted on, paid for or written to the
question bank cannot change afterwards. Text fields hold exactly what a model wrote: nothing in here is trusted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

Json: TypeAlias = dict[str, Any]
"""A JSON object, or the keyword arguments of a configuration: its values are checked by who reads them."""

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One chat request: what a role is asked.

    Prompt(system="Please reason step by step.", user="What is 3 + 4?")

    `system` and `user` are plain text. Control tokens inside `user` are data and are never tokenised as control tokens.
    """

    user: str
    system: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Parameters of drawing completions. `temperature=0` is greedy. `top_p=1` and `top_k=0` mean no truncation.

    Sampling(n=8, temperature=1.0, max_tokens=160, seed=3)

    `max_tokens` bounds the response; an engine lowers it to what the model's context leaves after the prompt.
    Equal seeds give equal completions on the same engine, prompts and weights. vocabulary_dropout: the share of words
    that each completion does without (`rzero.engines.vocabulary`).
    """

    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int
    seed: int = 0
    vocabulary_dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ValueError(f"sampling.n must be at least 1, got {self.n}")
        if self.temperature < 0:
            raise ValueError(f"sampling.temperature must be 0 (greedy) or positive, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"sampling.top_p must lie in (0, 1], got {self.top_p}")
        if self.top_k < 0:
            raise ValueError(f"sampling.top_k must be 0 (off) or positive, got {self.top_k}")
        if self.max_tokens < 1:
            raise ValueError(f"sampling.max_tokens must be at least 1, got {self.max_tokens}")
        if not 0 <= self.vocabulary_dropout < 1:
            raise ValueError(f"sampling.vocabulary_dropout must lie in [0, 1), got {self.vocabulary_dropout}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropout:
    """Which tokens a completion did without: `share` of the droppable ones, chosen by `key`, a 64-bit number."""

    key: int
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    r"""One response: its text, its token ids (eos included when `finish_reason == "stop"`) and log-probs (nats).

    Completion(text="\boxed{7}", token_ids=(59, 22, 2), logprobs=(-0.1, -0.7, -0.0), finish_reason="stop")

    `dropout`: the log-probs are those of the distribution without these tokens (None: of the whole one).
    """

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: FinishReason
    dropout: Dropout | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """All completions of one prompt: the unit over which GRPO normalises rewards.

    Group(prompt=Prompt(user="3 + 4?"), prompt_ids=(18, 10, 19, 30), completions=(right, wrong))
    """

    prompt: Prompt
    prompt_ids: tuple[int, ...]
    completions: tuple[Completion, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A parsed Challenger response: the text of the last question block and the Challenger's own boxed answer.

    Question(text="What is 3 + 4?", answer="7")

    `answer` is None when the response holds no (well-formed) box.
    """

    text: str
    answer: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Vote:
    """The outcome of a vote among the Solver's answers to one question (paper section 3.3).

    Vote(label="7", count=2, divisor=3, counts=(("7", 2), ("12", 1)), answers=("7", "12", "7"))

    `label` is the representative of the largest cluster (None: nobody answered), `count` its size, `divisor` what the
    agreement is divided by, `counts` every cluster in order of first appearance, `answers` the extracted answer of each
    response (None: no box), in the order the responses were given. `others`: what other voters, such as earlier
    Solvers, said on the same question; it changes none of the above.
    """

    label: str | None
    count: int
    divisor: int
    counts: tuple[tuple[str, int], ...]
    answers: tuple[str | None, ...]
    others: tuple[Vote, ...] = ()

    @property
    def agreement(self) -> float:
        """Share of the most frequent answer in [0, 1]; the paper's p-hat. 0 when nobody answered."""
        return self.count / self.divisor if self.divisor else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledQuestion:
    """A candidate question after the vote: kept for training, or dropped with the reason.

    LabelledQuestion(
        iteration=1, index=0, question="What is 3 + 4?", challenger_answer="7", vote=vote, drop_reason="above_band"
    )

    `drop_reason` is None exactly when the question was kept. `vote` is None when the question was dropped before it was
    put to the Solver (broken format).
    """

    iteration: int
    index: int
    question: str
    challenger_answer: str | None
    vote: Vote | None
    drop_reason: str | None

    @property
    def kept(self) -> bool:
        return self.drop_reason is None


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardBreakdown:
    """A reward and the named parts it was made of (for logging only; training sees `total`).

    RewardBreakdown(total=0.75, parts={"format": 1.0, "uncertainty": 0.8, "repetition": 0.05})
    """

    total: float
    parts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """A stage's output on disk and what it was made of: the lineage of a run.

    Artifact(kind="solver", iteration=2, path=Path("iteration_2/solver"), made_of=("questions_2", "solver_1"))

    `path` is a file (questions) or a Hugging Face directory. `made_of` holds the names of earlier artifacts, and `base`
    for the base model.
    """

    kind: Literal["questions", "challenger", "solver"]
    iteration: int
    path: Path
    made_of: tuple[str, ...]

    @property
    def name(self) -> str:
        """`solver_2`: unique within a run."""
        return f"{self.kind}_{self.iteration}"
