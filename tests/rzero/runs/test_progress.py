"""Progress within a step: what is under way, how far it is, and a line even while an engine says nothing."""

from __future__ import annotations

import io
import re
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from rzero.runs import progress as clockwork
from rzero.runs.progress import ConsoleNarrator, Meter, Part
from rzero.types import Group, Prompt, Sampling
from tests.rzero.tiny_run import Suite, execute, reply, tiny_run
from tests.scripted import ScriptedEngine

PATIENCE_S = 60
"""How long a test waits for a line that never comes."""


class Log(io.StringIO):
    """A log that can be waited for."""

    def wait_for(self, pattern: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not re.search(pattern, self.getvalue()):
            assert time.monotonic() < deadline, f"no line with {pattern!r} in:\n{self.getvalue()}"
            time.sleep(0.005)


class SlowEngine(ScriptedEngine):
    """Says nothing after its first response until the log has had a line about it all the same."""

    def __init__(self, log: Log) -> None:
        super().__init__(reply)
        self.log = log

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling, *, progress: Any = None) -> list[Group]:
        assert progress is not None, "nobody would hear of this call"
        progress(1, sampling.n * len(prompts) + 1, 40)
        self.log.seek(0)
        self.log.truncate()
        self.log.wait_for(r", responses 1/\d+, \d+ tokens/s, .* left  \(for \d+ s\)")
        return super().generate(prompts, sampling, progress=progress)


class Asking(Suite):
    def evaluate(self, engine: Any, *, policy: Any = None, progress: Any = None, watch: Any = None) -> Any:
        engine.generate([Prompt(user="Q")], Sampling(n=2, max_tokens=8), progress=watch("math500 greedy"))
        return super().evaluate(engine, policy=policy, progress=progress)


@pytest.mark.usefixtures("quiet_lightning")
def test_a_slow_engine_is_heard_of_in_every_phase(tmp_path: Path, base: Path) -> None:
    log = Log()
    run = tiny_run(tmp_path / "run", base, suite=Asking(), make_engine=lambda: SlowEngine(log))
    console = Console(file=log, force_terminal=False, width=100)
    run.stages.narrator = ConsoleNarrator(phases=5, seconds=0.02, console=console)
    parts: set[str] = set()
    now = run.stages.narrator.now
    run.stages.narrator.now = lambda part: parts.add(part.split(" 1/")[0]) or now(part)  # type: ignore[method-assign]
    execute(run)
    assert {
        "loading the Solver", "giving the engine the Solver", "math500 greedy, responses", "loading what learns",
        "giving the engine what was learned", "drawing, responses", "voting, responses", "counting votes", "rewards",
        "scoring by the reference, micro-batches", "learning, micro-batches", "saving a checkpoint", "saving weights",
        "writing down what was made", "posing, responses", "choosing",
    } <= parts  # fmt: skip


@pytest.mark.usefixtures("quiet_lightning")
def test_a_run_that_fails_falls_silent(tmp_path: Path, base: Path) -> None:
    class Broken(ScriptedEngine):
        def generate(self, *args: Any, **more: Any) -> list[Group]:
            assert "progress" in {thread.name for thread in threading.enumerate()}
            raise OSError("gone")

    run = tiny_run(tmp_path / "run", base, make_engine=lambda: Broken(reply))
    run.stages.narrator = ConsoleNarrator(phases=5, seconds=60, console=Console(file=io.StringIO()))
    with pytest.raises(OSError, match="gone"):
        execute(run)
    assert "progress" not in {thread.name for thread in threading.enumerate()}


def test_a_part_says_how_many_how_fast_and_how_long(monkeypatch: pytest.MonkeyPatch) -> None:
    now, told = [1000.0], list[str]()
    monkeypatch.setattr(clockwork.time, "monotonic", lambda: now[0])
    part = Part("drawing, responses", tell=told.append)
    for done, tokens in ((0, 80), (2, 160), (3, 200), (8, 400)):
        now[0] += 2
        part(done, 8, tokens)
        part(done, 9, tokens)  # at once after the one before: one of thousands that engines tell
    assert told == [
        "drawing, responses",
        "drawing, responses 0/8, 40 tokens/s",
        "drawing, responses 2/8, 40 tokens/s, 12 s left",
        "drawing, responses 3/8, 33 tokens/s, 10 s left",
        "drawing, responses 8/8, 50 tokens/s",
    ]


def test_what_is_under_way_stands_behind_what_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    now, log = [1000.0], io.StringIO()
    monkeypatch.setattr(clockwork.time, "monotonic", lambda: now[0])
    meter = Meter("Solver", total=4, seconds=15, console=Console(file=log, force_terminal=False, width=40))
    now[0] += 60
    meter.advance("reward 0.5")
    for seconds in (16, 10, 10, 10):
        now[0] += seconds
        meter.now("learning") if seconds == 16 else meter.beat()
    meter.advance("reward 0.6")
    now[0] += 16
    meter.beat()
    assert log.getvalue().splitlines() == [
        "Solver  1/4  3 min left  reward 0.5",
        "Solver  1/4  3 min left  reward 0.5  learning",
        "Solver  1/4  2 min left  reward 0.5  learning  (for 20 s)",
        "Solver  2/4  2 min left  reward 0.6  (for 16 s)",
    ]


def test_a_terminal_shows_the_part_on_its_bar() -> None:
    log = io.StringIO()
    meter = Meter("Solver", total=4, seconds=15, console=Console(file=log, force_terminal=True, width=160))
    meter.advance("reward 0.5")
    meter.now("learning, micro-batches 3/12")
    assert meter._bar is not None
    meter._bar.refresh()
    meter.close()
    assert "reward 0.5  learning, micro-batches 3/12" in log.getvalue()
