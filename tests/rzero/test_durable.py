"""A run that was stopped, whose disk failed or whose files were damaged ends as if nothing had happened."""

from __future__ import annotations

import errno
import functools
import itertools
import random
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from experiments.torture.attempts import end_state
from rzero.modules import OverlongPenalty, Refill
from rzero.policy import load_policy
from rzero.runs.ledger import Ledger
from rzero.selfplay import SelfPlay
from rzero.tracking import read_metrics
from rzero.types import Prompt
from tests.rzero.faulty_disk import REASONS, FaultyDisk
from tests.rzero.tiny_run import execute, reply, tiny_run

STEPS = 3
ROLE = {"steps": STEPS}


pytestmark = pytest.mark.usefixtures("quiet_lightning")


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory, base: Path) -> dict[str, str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return execute(tiny_run(tmp_path_factory.mktemp("run") / "untouched", base, role=ROLE))


def stopped(directory: Path, base: Path, *, after: int, role: Any = ROLE, **changes: Any) -> None:
    """A run whose process ends just after row `after` of its metrics was logged."""
    run = tiny_run(directory, base, role=role, **changes)
    log = run.stages.tracker.log

    def broken(metrics: Any, *, step: int) -> None:
        log(metrics, step=step)
        if step == after:
            raise KeyboardInterrupt

    run.stages.tracker.log = broken
    with pytest.raises(KeyboardInterrupt):
        execute(run)


@pytest.mark.parametrize("every", [0, 1, 2])
def test_a_phase_goes_on_from_its_checkpoint_and_ends_the_same(
    tmp_path: Path, base: Path, untouched: dict[str, str], every: int
) -> None:
    """Row 1 is the base's evaluation, rows 2 to 4 are the Challenger's, 5 the questions', 6 to 8 the Solver's."""
    for row in (3, 8):
        stopped(tmp_path / "run", base, after=row, checkpoint_every=every)
    ledger = Ledger.open(tmp_path / "run" / "state.json")
    paused = ledger.paused("1/solver")
    assert (paused["rollouts"] if paused else 0) == {0: 0, 1: 2, 2: 2}[every]
    run = tiny_run(tmp_path / "run", base, role=ROLE, checkpoint_every=every)
    state = execute(run)
    drawn = sum(call[1].n > 2 for call in run.learning.calls)
    assert drawn == STEPS - (paused["rollouts"] if paused else 0), "only what was not committed is repeated"
    assert state == untouched
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_stage_takes_the_time_of_the_attempts_before_its_checkpoint_too(tmp_path: Path, base: Path) -> None:
    stopped(tmp_path / "run", base, after=8, checkpoint_every=1)
    ledger = Ledger.open(tmp_path / "run" / "state.json")
    assert ledger.checkpoint is not None
    paused, files, metrics = ledger.checkpoint.result, ledger.checkpoint.files, ledger.checkpoint.metrics
    assert 0 < paused["seconds"] < 1000
    ledger.pause("1/solver", {**paused, "seconds": 1000.0}, files=files, metrics=metrics)
    run = tiny_run(tmp_path / "run", base, role=ROLE, checkpoint_every=1)
    execute(run)
    assert 1000 < run.stages.ledger.stages["1/solver"].result["seconds"] < 2000


def test_groups_drawn_again_and_lengths_charged_go_on_with_the_same_samples(tmp_path: Path, base: Path) -> None:
    """With `refill=dapo` and `overlong`, stopped in mid-phase: every later call asks the same with the same seed."""
    role = {"steps": 5, "refill": Refill(tolerance=1e-6, max_rounds=2), "overlong": OverlongPenalty(buffer_share=0.2)}
    whole = tiny_run(tmp_path / "whole", base, role=role, script=teaches_now_and_then, checkpoint_every=3)
    expected = execute(whole)
    rows = read_metrics(tmp_path / "whole" / "metrics.jsonl")
    replaced = [row["solver/refill/replaced_groups"] for row in rows if "solver/reward" in row]
    assert sum(replaced[3:]) > 0, "groups are drawn again behind the checkpoint"
    assert min(row["solver/rewards/overlong/mean"] for row in rows if "solver/reward" in row) < 0
    steps = [number for number, row in enumerate(rows, start=1) if "solver/reward" in row]
    stopped(
        tmp_path / "run", base, after=steps[3], role=role, script=teaches_now_and_then, checkpoint_every=3
    )  # step 4 is logged, the checkpoint is of step 3
    resumed = tiny_run(tmp_path / "run", base, role=role, script=teaches_now_and_then, checkpoint_every=3)
    assert execute(resumed) == expected
    again = resumed.learning.calls  # type: ignore[attr-defined]
    assert again == whole.learning.calls[-len(again) :]  # type: ignore[attr-defined]
    assert len(again) > 2, "two steps, and groups that were drawn again"


def teaches_now_and_then(prompt: Prompt, sample: int) -> str:
    """Replies of which some reach the limit of 12 tokens, and equal ones to two of the four questions."""
    if prompt.user in ("What is 22?", "What is 3 3?"):
        return "1"
    return reply(prompt, sample) if sample or prompt.user == "Pose." else "1 2 3 4 5 6 7 8 9 10 11"


@pytest.mark.parametrize("tuning", ["adapters", "full"])
def test_adapters_and_models_with_dropout_go_on_exactly_too(
    tmp_path: Path, make_policy: Callable[..., Any], tuning: str
) -> None:
    lora = {"rank": 2, "alpha": 8, "dropout": 0.0, "target_modules": ["c_attn"]} if tuning == "adapters" else None
    make_policy("gpt2").save(tmp_path / "base")  # it has dropout of its own
    load = functools.partial(load_policy, dtype="float32", attn_implementation="sdpa", lora=lora)
    expected = execute(tiny_run(tmp_path / "whole", tmp_path / "base", role=ROLE, load=load))
    for row in (3, 8):
        stopped(tmp_path / "run", tmp_path / "base", after=row, load=load)
    assert execute(tiny_run(tmp_path / "run", tmp_path / "base", role=ROLE, load=load)) == expected


@pytest.mark.slow
def test_every_operation_of_the_disk_may_fail(tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The k-th write, fsync or rename fails, k = 1, 2, ... until the next stage or checkpoint is committed; from there
    again, until a run passes: so every operation of the run has failed once, in every way in turn. Temporary files of
    the system lie on another file system meanwhile, from which a rename would fail.
    """
    elsewhere = Path("/dev/shm")
    assert elsewhere.stat().st_dev != tmp_path.stat().st_dev, "another file system, for the test to mean something"
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setenv("TMPDIR", str(elsewhere))
    directory = tmp_path / "run"
    ways = itertools.cycle(itertools.product(REASONS, (False, True), (False, True)))
    failures, number = 0, 1
    while True:
        reason, lasting, short = next(ways)
        before = committed(directory)
        disk = FaultyDisk(folder=directory, fail_at=number, reason=reason, lasting=lasting, short=short)
        said: list[OSError] = []
        try:
            with disk.mounted():
                state = execute(tiny_run(directory, base, role={"steps": 2}))
        except OSError as error:
            said.append(error)
        if not disk.failed:
            break
        failures += 1
        assert [error.errno for error in said] == [reason], "the reason is said"
        assert str(said[0].filename).startswith(str(directory)), "and where"
        ledger = Ledger.open(directory / "state.json")
        ledger.forget_damaged(directory)
        assert ledger.notes == [], "the last complete state is whole"
        number = 1 if committed(directory) != before else number + 1
    assert failures > 50
    assert state == execute(tiny_run(tmp_path / "other", base, role={"steps": 2}))


def committed(directory: Path) -> object:
    ledger = Ledger.open(directory / "state.json")
    return list(ledger.stages), ledger.checkpoint


def test_a_full_disk_is_noticed_before_a_phase(tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(OSError, match=r"training the challenger needs .* MB of disk") as error:
        execute(tiny_run(tmp_path / "run", base))
    assert error.value.errno == errno.ENOSPC


def test_clocks_that_jump_change_nothing(
    tmp_path: Path, base: Path, untouched: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rng, now = random.Random(0), time.time
    monkeypatch.setattr(time, "time", lambda: now() + rng.choice([-3600, 0, 3600]))
    assert execute(tiny_run(tmp_path / "run", base, role=ROLE)) == untouched


DAMAGED = {
    "state": "state.json",
    "questions": "questions/questions_1.jsonl",
    "weights": "iteration_1/challenger/model.safetensors",
    "scores": "iteration_0/evaluation.json",
    "metrics": "metrics.jsonl",
    "checkpoint weights": "checkpoints/1_solver_2/trained.safetensors",
    "checkpoint moments": "checkpoints/1_solver_2/moments.safetensors",
    "checkpoint optimiser": "checkpoints/1_solver_2/optimizer.pt",
}


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Path:
    """A run that was stopped in the last step of the Solver."""
    path = tmp_path_factory.mktemp("interrupted") / "run"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stopped(path, base, after=8)
    return path


@pytest.mark.parametrize("kind", DAMAGED)
def test_torn_and_flipped_files_are_noticed_before_they_are_used(tmp_path: Path, interrupted: Path, kind: str) -> None:
    """50 truncations and 50 flipped bits of every kind of file; what is left is whole and one step back."""
    directory = tmp_path / "run"
    shutil.copytree(interrupted, directory)
    whole, path = Ledger.open(directory / "state.json"), directory / DAMAGED[kind]
    state, content = (directory / "state.json").read_bytes(), path.read_bytes()
    safe = content[: whole.last.metrics.size] if kind == "metrics" else content  # the rest belongs to no commit
    rng = random.Random(kind)
    for number in range(100):
        place = rng.randrange(len(safe))
        flipped = bytes([safe[place] ^ (1 << rng.randrange(8))])
        damaged = content[:place] if number % 2 else content[:place] + flipped + content[place + 1 :]
        (directory / "state.json").write_bytes(state)
        path.write_bytes(damaged)
        ledger = Ledger.open(directory / "state.json")
        ledger.forget_damaged(directory)
        assert ledger.notes, f"{kind}: byte {place} of {len(content)}"
        assert str(path) in ledger.notes[0]
        assert ledger.last.step < whole.last.step


@pytest.mark.parametrize("kind", ["state", "questions", "metrics", "checkpoint optimiser"])
def test_a_damaged_run_goes_back_says_so_and_ends_the_same(
    tmp_path: Path, base: Path, interrupted: Path, untouched: dict[str, str], kind: str
) -> None:
    directory = tmp_path / "run"
    shutil.copytree(interrupted, directory)
    path = directory / DAMAGED[kind]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    run: SelfPlay = tiny_run(directory, base, role=ROLE)
    assert str(path) in run.stages.ledger.notes[0]
    assert execute(run) == untouched
    assert end_state(directory) == untouched
