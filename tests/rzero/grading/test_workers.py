"""The killable processes: budgets, replacement, orphans, secrets, steady state."""

import gc
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from rzero.grading import MathGrader


def children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split()]


def test_a_comparison_over_its_budget_is_killed_and_the_next_one_is_right(
    make_grader: Callable[..., MathGrader],
) -> None:
    with make_grader(workers=1, compare_cpu_seconds=0.02, parse_cpu_seconds=0.02) as grader:
        slow = [("\\sin(x)^{9}+\\cos(y)^{9}=z", "z=\\cos(y)^{9}+\\sin(y)^{9}"), ("[0,1)\\cup(1,2]", "[0,1]\\cup[1,2]")]
        verdicts = grader.accepts_many(slow)
        assert grader.counters["killed"] >= 1
        assert verdicts == grader.accepts_many(slow)
        assert len(grader.pool.pids) == 1
    with make_grader(workers=1) as grader:
        assert grader.accepts("x+x", "2x")


def test_a_killed_worker_is_replaced_and_gives_the_same_verdict(make_grader: Callable[..., MathGrader]) -> None:
    with make_grader(workers=1) as grader:
        assert grader.accepts("x+x", "2x")
        orphans = psutil.Process(grader.pool.pids[0]).children(recursive=True)
        os.kill(grader.pool.pids[0], signal.SIGKILL)
        assert not psutil.wait_procs(orphans, timeout=30)[1]  # until they die too, one may still answer
        assert grader.accepts("y+y", "2y")
        assert grader.pool.counters["workers_replaced"] == 1
        server = children(grader.pool.pids[0])[0]
        os.kill(server, signal.SIGKILL)  # idle: nothing was asked, so nothing may be answered
        assert grader.accepts("z+z", "2z")
        assert not grader.accepts("z+z", "3z")


@pytest.mark.slow
def test_a_stopped_worker_is_given_up(make_grader: Callable[..., MathGrader]) -> None:
    with make_grader(workers=1, wall_seconds=20.0) as grader:
        assert grader.accepts("x+x", "2x")
        os.kill(children(grader.pool.pids[0])[0], signal.SIGSTOP)
        assert grader.accepts("y+y", "2y")
        assert grader.pool.counters["workers_replaced"] == 1


def test_close_ends_every_process(make_grader: Callable[..., MathGrader]) -> None:
    grader = make_grader(workers=2)
    grader.accepts_many([("x+x", "2x"), ("y+y", "2y")])
    pids = [pid for keeper in grader.pool.pids for pid in [keeper, *children(keeper)]]
    assert len(pids) == 4
    grader.close()
    assert gone(pids)
    assert grader.accepts("z+z", "2z")  # usable again
    grader.close()


def test_a_forgotten_grader_ends_its_processes(make_grader: Callable[..., MathGrader]) -> None:
    grader = make_grader(workers=1)
    grader.accepts("x+x", "2x")
    pids = [pid for keeper in grader.pool.pids for pid in [keeper, *children(keeper)]]
    del grader
    gc.collect()
    assert gone(pids)


def test_no_process_survives_a_killed_parent() -> None:
    program = (
        "import sys, time; sys.path.insert(0, 'tests/rzero/grading'); from conftest import build\n"
        "g = build(workers=2); g.accepts_many([('x+x', '2x'), ('y+y', '2y')])\n"
        "print(*g.pool.pids, flush=True); time.sleep(60)"
    )
    root = Path(__file__).resolve().parents[3]
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, cwd=root, env={**os.environ, "PYTHONPATH": str(root)}
    ) as parent:
        assert parent.stdout is not None
        keepers = [int(pid) for pid in parent.stdout.readline().split()]
        pids = [pid for keeper in keepers for pid in [keeper, *children(keeper)]]
        parent.kill()
    assert len(pids) == 4
    assert gone(pids)


def gone(pids: list[int]) -> bool:
    """Whether all processes end within five seconds (zombies of other parents count as ended)."""
    for _ in range(100):
        if not any(alive(pid) for pid in pids):
            return True
        time.sleep(0.05)
    return False


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_workers_see_no_secrets(make_grader: Callable[..., MathGrader], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "do-not-leak-this")
    with make_grader(workers=1) as grader:
        grader.accepts("x+x", "2x")
        for pid in [*grader.pool.pids, *children(grader.pool.pids[0])]:
            assert b"do-not-leak-this" not in Path(f"/proc/{pid}/environ").read_bytes()


def test_memory_of_a_worker_is_limited(make_grader: Callable[..., MathGrader]) -> None:
    with make_grader(workers=1, memory_mb=300) as grader:
        grader.accepts("x+x", "2x")
        limits = Path(f"/proc/{children(grader.pool.pids[0])[0]}/limits").read_text()
        assert str(300 << 20) in next(line for line in limits.splitlines() if line.startswith("Max address space"))


@pytest.mark.slow
def test_hostile_answers_execute_nothing(
    grader: MathGrader, hostile_answers: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "canary"
    monkeypatch.setenv("RZERO_CANARY", str(target))
    before = set(Path(tempfile.gettempdir()).glob("*canary*"))
    answers = [grader.extract(text) or text for text in hostile_answers]
    forward = grader.accepts_many([(answer, "1/2") for answer in answers])
    assert forward == grader.accepts_many([("1/2", answer) for answer in answers])
    assert not target.exists()
    assert set(Path(tempfile.gettempdir()).glob("*canary*")) == before


@pytest.mark.slow
def test_ten_thousand_answers_leave_nothing_behind(make_grader: Callable[..., MathGrader]) -> None:
    """File descriptors and processes stay the same, memory grows by less than 50 MB (goals G4 and G11)."""

    def batch(start: int) -> list[tuple[str, str]]:
        return [(f"{n}", f"{n}.0") if n % 10 else (f"{n}x+{n}x", f"{2 * n}x") for n in range(start, start + 500)]

    with make_grader(requests_per_server=150) as grader:
        assert all(grader.accepts_many(batch(0)))
        descriptors, memory = len(os.listdir("/proc/self/fd")), resident_mb()
        for start in range(500, 10_000, 500):
            assert all(grader.accepts_many(batch(start)))
        assert len(os.listdir("/proc/self/fd")) == descriptors
        assert resident_mb() - memory < 50
        assert grader.pool.counters["workers_replaced"] == 0
        keepers = grader.pool.pids
        assert all(len(children(keeper)) == 1 for keeper in keepers)
    assert gone(keepers)


def resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
