"""Ctrl-C or SIGTERM in the middle of a phase leaves a run that can be resumed; one process at a time holds a run."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments import PROJECT, rundir
from rzero.runs.ledger import Ledger
from tests.experiments.small import SHRUNK

SECRETS = {
    "WANDB_API_KEY": "5ec2e7aa" * 5,
    "HF_TOKEN": "hf_PlantedPlantedPlantedPlantedPlanted",
    "AWS_SECRET_ACCESS_KEY": "planted/AwsSecretAwsSecretAwsSecretAwsSec",
    "OPENAI_API_KEY": "sk-planted-planted-planted",
}


def start(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "experiments.run", *arguments],
        cwd=PROJECT,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # a shell that puts the tests into the background has them, and what they start, ignore Ctrl-C
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


@pytest.mark.slow
def test_ctrl_c_stops_with_a_hint_and_keeps_the_complete_stages(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    arguments = [*SHRUNK, "iterations=1", "solver.settings.steps=200", f"directory={directory}"]
    process = start(*arguments)
    wait_for_training(process, directory)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1, errors
    assert "stopped by the user" in errors
    assert f"resume={directory}" in errors

    ledger = Ledger.open(directory / "state.json")
    assert list(ledger.stages) == ["0/evaluation", "1/challenger", "1/questions"]


def wait_for_training(process: subprocess.Popen[str], directory: Path) -> None:
    """Until the first step of the Solver is logged."""
    metrics = directory / "metrics.jsonl"
    deadline = time.monotonic() + 400
    while time.monotonic() < deadline:
        if metrics.exists() and '"solver/reward"' in metrics.read_text():
            return
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        time.sleep(0.2)
    process.kill()
    pytest.fail("no step of the Solver in time")


def descendants(pid: int) -> list[int]:
    """Processes below `pid`, whatever session they are in."""
    found = []
    for line in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        found += [int(line), *descendants(int(line))]
    return found


def cpu_seconds(pid: int) -> float:
    """What the process itself has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def is_alive(pid: int) -> bool:
    """Whether it runs; one that has ended and waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
def test_sigterm_ends_a_run_in_order_and_no_secret_was_written(tmp_path: Path) -> None:
    """With W&B (offline): 143 within 30 CPU seconds, a whole state, a hint, no process and no secret left behind."""
    directory = tmp_path / "run"
    arguments = [*SHRUNK, "iterations=1", "solver.settings.steps=200", f"directory={directory}"]
    arguments += ["checkpoint_every=1", "tracker=wandb", "tracker.mode=offline"]
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    others = used.ru_utime + used.ru_stime
    process = start(*arguments, WANDB_SILENT="true", **SECRETS)
    wait_for_training(process, directory)
    with pytest.raises(RuntimeError, match=f"in use by pid {process.pid} on "), rundir.locked(directory):
        pass
    below = descendants(process.pid)

    before = cpu_seconds(process.pid)
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 143, errors
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # in CPU seconds, because wall time is the machine's: with a core of its own it takes no longer
    assert after.ru_utime + after.ru_stime - others - before < 30
    assert "stopped by SIGTERM" in errors
    assert f"resume={directory}" in errors
    deadline = time.monotonic() + 5
    while any(map(is_alive, below)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not [pid for pid in below if is_alive(pid)]

    ledger = Ledger.open(directory / "state.json")
    ledger.forget_damaged(directory)
    assert ledger.notes == []
    assert list(ledger.stages) == ["0/evaluation", "1/challenger", "1/questions"]
    written = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    assert any(path.suffix == ".wandb" for path in written)
    for secret in SECRETS.values():
        assert secret not in output + errors
        assert not [path for path, content in written.items() if secret.encode() in content]
    for file in ("config.yaml", "run.json", "state.json"):
        assert not [name for name in SECRETS if name.encode() in written[directory / file]]


@pytest.mark.slow
def test_a_killed_leader_leaves_no_process_of_its_run(tmp_path: Path) -> None:
    program = (
        "import time\n"
        "from rzero.processes.launch import launch\n"
        "from tests.rzero.processes.workers import waiting_worker\n"
        "if __name__ == '__main__':\n"
        "    with launch(size=2, worker=waiting_worker) as ranks:\n"
        "        print(ranks.gather(None), flush=True)\n        time.sleep(300)\n"
    )
    (tmp_path / "leader.py").write_text(program)
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "leader.py")],
        cwd=PROJECT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("[None, ")
    below = descendants(process.pid)
    assert below
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 5
    while any(map(is_alive, below)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not [pid for pid in below if is_alive(pid)]


def test_a_directory_is_held_by_one_process_at_a_time(tmp_path: Path) -> None:
    with rundir.locked(tmp_path), pytest.raises(RuntimeError, match=f"in use by pid {os.getpid()}"):  # noqa: SIM117
        with rundir.locked(tmp_path):
            pass
    with rundir.locked(tmp_path):
        pass
