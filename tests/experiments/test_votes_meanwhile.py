"""A Challenger's step on stub servers: votes are drawn while another question still is."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from rzero.engines.vllm import VllmEngine
from rzero.modules import Challenger
from rzero.selfplay import SelfPlay
from rzero.tracking import is_timing, read_metrics
from rzero.types import Group
from tests.experiments.small import small_run
from tests.rzero.engines.scripted_server import Scripted, serving

POSED = 9
QUESTIONS = (1, 2, 5)
"""Of nine completions these pose a question, each of which gets two votes."""
PATIENCE_S = 60
"""How long the last completion is held back for a vote that never comes."""
RECIPE = (
    "engine=vllm_server", "engine.max_rows=4", "iterations=1",
    "policy.lora={rank: 2, alpha: 4, dropout: 0.0, target_modules: [q_proj, v_proj]}",
    "challenger.settings.steps=1", "challenger.settings.prompts_per_step=3", "challenger.settings.samples_per_prompt=3",
    "challenger.polling.votes=2", "repetition=paper",
)  # fmt: skip


class Answers:
    """Replies by the seed of a row alone, so that they are what they were whichever server draws them, and when.

    The completion that is asked for last waits until a vote has been asked for, `patience` seconds at most.
    """

    def __init__(self, run: SelfPlay, servers: Sequence[Scripted], *, patience: float) -> None:
        self.tokenizer = run.weights.make(run.weights.base).tokenizer
        self.patience = patience
        self.posed, self.counting = 0, threading.Lock()
        self.voting = threading.Event()
        self.overlapped: list[bool] = []
        for server in servers:
            server.reply = self.reply

    def reply(self, body: Any) -> list[int]:
        seed = body["sampling_params"].get("seed")
        if seed is None:
            return [3]  # the probe after a sync
        number = zlib.crc32(str(seed).encode()) % 9
        if "Pose" in self.tokenizer.decode(body["token_ids"]):
            self.wait_for_a_vote()
            question = f"<question>{number} + {number}</question> \\boxed{{{2 * number}}}"
            text = question if number in QUESTIONS else "no question"
        else:
            self.voting.set()
            text = f"\\boxed{{{number}}}"
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def wait_for_a_vote(self) -> None:
        with self.counting:
            self.posed += 1
            last = self.posed == POSED
        if last:
            self.overlapped.append(self.voting.wait(self.patience))


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[list[str], list[Scripted]]]:
    monkeypatch.setattr(VllmEngine, "verify", lambda self, policy, ranks: None)  # stubs have no log-probs
    with ExitStack() as stack:
        pairs = [stack.enter_context(serving()) for _ in range(2)]
        yield [url for url, _ in pairs], [script for _, script in pairs]


def challenger_step(
    directory: Path, urls: Sequence[str], scripts: Sequence[Scripted], seen: list[list[Group]], *, patience: float
) -> tuple[dict[str, float], list[bool]]:
    """The metrics of one step, and whether a vote was asked for before the last completion was answered."""
    run = small_run(directory, *RECIPE, f"engine.host.urls=[{','.join(urls)}]")
    answers = Answers(run, scripts, patience=patience)
    learn = Challenger.learn

    def look(self: Challenger, groups: list[Group], rewards: Any) -> dict[str, float]:
        seen.append(groups)
        return learn(self, groups, rewards)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Challenger, "learn", look)
        with run._started():
            run.stages.run("challenger", 1, run.fit_challenger)
    run.close()
    [row] = read_metrics(directory / "metrics.jsonl")
    return {name: value for name, value in row.items() if not is_timing(name)}, answers.overlapped


def test_votes_meanwhile_are_the_votes_afterwards(servers, tmp_path, monkeypatch):
    urls, scripts = servers
    seen: list[list[Group]] = []
    together, overlapped = challenger_step(tmp_path / "together", urls, scripts, seen, patience=PATIENCE_S)
    assert overlapped == [True]
    monkeypatch.setattr(VllmEngine, "beside", lambda *_: False)
    serially, overlapped = challenger_step(tmp_path / "serially", urls, scripts, seen, patience=0)
    assert overlapped == [False]
    assert seen[0] == seen[1]
    assert together == serially
    assert sum("question>" in completion.text for group in seen[0] for completion in group.completions) == 3
    assert together["challenger/reward"] > 0
