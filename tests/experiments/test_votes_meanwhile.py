"""A Challenger's step on stub servers of fixed latency: votes are drawn while other questions still are."""

from __future__ import annotations

import time
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

LATENCY_S = 0.5
# Of nine completions three pose a question, each of which gets two votes. On two servers of four rows that takes three
# times the latency one after the other, two for the questions and one for the votes; together the 15 rows take two.
QUESTIONS = (1, 2, 5)
RECIPE = (
    "engine=vllm_server", "engine.max_rows=4", "iterations=1",
    "policy.lora={rank: 2, alpha: 4, dropout: 0.0, target_modules: [q_proj, v_proj]}",
    "challenger.settings.steps=1", "challenger.settings.prompts_per_step=3", "challenger.settings.samples_per_prompt=3",
    "challenger.polling.votes=2", "repetition=paper",
)  # fmt: skip


class Answers:
    """Replies by the seed of a row alone, so that they are what they were whichever server draws them, and when."""

    def __init__(self, run: SelfPlay, servers: Sequence[Scripted]) -> None:
        self.tokenizer = run.weights.make(run.weights.base).tokenizer
        for server in servers:
            server.before = lambda path: time.sleep(LATENCY_S) if path.endswith("generate") else None
            server.reply = self.reply

    def reply(self, body: Any) -> list[int]:
        seed = body["sampling_params"].get("seed")
        if seed is None:
            return [3]  # the probe after a sync
        number = zlib.crc32(str(seed).encode()) % 9
        if "Pose" in self.tokenizer.decode(body["token_ids"]):
            question = f"<question>{number} + {number}</question> \\boxed{{{2 * number}}}"
            text = question if number in QUESTIONS else "no question"
        else:
            text = f"\\boxed{{{number}}}"
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[list[str], list[Scripted]]]:
    monkeypatch.setattr(VllmEngine, "verify", lambda self, policy, ranks: None)  # stubs have no log-probs
    with ExitStack() as stack:
        pairs = [stack.enter_context(serving()) for _ in range(2)]
        yield [url for url, _ in pairs], [script for _, script in pairs]


def challenger_step(
    directory: Path, urls: Sequence[str], scripts: Sequence[Scripted], seen: list[list[Group]]
) -> tuple[dict[str, float], float]:
    """The metrics of one step, and the seconds that drawing and paying took."""
    run = small_run(directory, *RECIPE, f"engine.host.urls=[{','.join(urls)}]")
    Answers(run, scripts)
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
    metrics = {name: value for name, value in row.items() if not is_timing(name)}
    return metrics, row["challenger/timing_s/rollout"] + row["challenger/timing_s/reward"]


def test_votes_meanwhile_are_the_votes_afterwards_in_less_time(servers, tmp_path, monkeypatch):
    urls, scripts = servers
    seen: list[list[Group]] = []
    together, quick = challenger_step(tmp_path / "together", urls, scripts, seen)
    monkeypatch.setattr(VllmEngine, "beside", lambda *_: False)
    serially, slow = challenger_step(tmp_path / "serially", urls, scripts, seen)
    assert seen[0] == seen[1]
    assert together == serially
    assert sum("question>" in completion.text for group in seen[0] for completion in group.completions) == 3
    assert together["challenger/reward"] > 0
    assert slow > 3 * LATENCY_S
    assert quick <= 0.8 * slow
