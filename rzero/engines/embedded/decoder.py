"""Protocols of the embedded engine's decoders: prompts in once, then one token per row at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor

from rzero.policy import Policy


class Session(Protocol):
    """The growing key/value cache of rows side by side."""

    def step(self, token_B: Tensor) -> Tensor:
        """Feeds one token to every row and returns the logits [B, V] behind it; the caller may overwrite them."""
        ...

    def keep(self, kept_Y: Tensor) -> None:
        """Goes on with these rows only (ascending indices into the current rows)."""
        ...


@runtime_checkable
class Joinable(Session, Protocol):
    """A session that takes in rows while others are under way."""

    def join(self, prompts: Sequence[Sequence[int]], *, prompt_of_row: Sequence[int]) -> Tensor:
        """Reads more prompts and appends a row per entry of `prompt_of_row` (ascending). Returns the logits [B, V]
        behind the prompts of these rows; those of the last step may be overwritten."""
        ...


class Starter(Protocol):
    """Whatever starts sessions.

    session, logits_BV = decoder.start(prompts, prompt_of_row=[0, 0, 1, 1], max_new=64)
    logits_BV = session.step(token_B)
    """

    def start(
        self, prompts: Sequence[Sequence[int]], *, prompt_of_row: Sequence[int], max_new: int
    ) -> tuple[Session, Tensor]:
        """Reads each prompt once. Returns a session with one row per entry of `prompt_of_row` (ascending) and the
        logits [B, V] behind the prompts; `max_new` bounds the number of tokens that will be drawn for a row."""
        ...


class Decoder(Starter, Protocol):
    """A language model ready to decode."""

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Copies the weights, given under their Hugging Face names."""
        ...


class Follower(Starter, Protocol):
    """A decoder that takes a policy's weights its own way, and knows how to tell them from others."""

    def take(self, policy: Policy) -> None:
        """Decodes with a copy of the policy's weights from now on."""
        ...

    def compare(self, policy: Policy) -> None:
        """Raises RuntimeError when what was taken just now is not `policy`."""
        ...

    def verify(self, policy: Policy) -> None:
        """Raises RuntimeError when what is decoded with is not `policy`, whenever it was taken."""
        ...
