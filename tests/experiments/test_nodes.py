"""Several nodes: what would not be one run is refused in one line; two agents of torchrun learn what one process does.

The nodes are on this machine; rollouts are the embedded engine's.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from experiments import PROJECT
from experiments.nodes import _SIGN, shared_directory
from rzero.runs.directory import RunDirectory
from rzero.runs.ledger import Ledger
from rzero.tracking import is_timing, read_metrics
from tests.experiments.small import SHRUNK, small_run
from tests.experiments.test_interrupt import descendants
from tests.experiments.test_run_errors import Result, run  # noqa: F401

TORCHRUN = {
    "WORLD_SIZE": "4",
    "RANK": "0",
    "LOCAL_RANK": "0",
    "GROUP_RANK": "0",
    "MASTER_ADDR": "a",
    "MASTER_PORT": "1",
}


@pytest.mark.parametrize(
    ("environment", "arguments", "words"),
    [
        (TORCHRUN, [], "torchrun started 4 processes, but trainer.devices=1 x trainer.num_nodes=1 is 1"),
        (TORCHRUN, ["trainer=ddp_cpu"], "trainer.devices=2 x trainer.num_nodes=1 is 2"),
        ({"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"},
         [], "srun started 2 processes, but trainer.devices=1"),
        ({"RANK": "1", "NODE_RANK": "1"}, [], "RANK, NODE_RANK set but not WORLD_SIZE, LOCAL_RANK, MASTER_ADDR"),
        ({}, ["trainer=ddp_cpu", "trainer.num_nodes=2"], "torchrun --nnodes=2 --nproc-per-node=2"),
        ({}, ["trainer.num_nodes=0"], "trainer.num_nodes must be a whole number, at least 1, got 0"),
        ({}, ["trainer.devices=many"], "trainer.devices must be a whole number, at least 1, got 'many'"),
    ],
)  # fmt: skip
def test_what_would_be_two_experiments_is_refused_at_once(
    run: Callable[..., Result],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    environment: dict[str, str],
    arguments: list[str],
    words: str,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    result = run(f"directory={tmp_path}/run", *arguments)
    assert result.returncode == 2
    assert words in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "run").exists()


class Far:
    """A process on another node, that is told where the run is."""

    first = False

    def __init__(self, directory: Path, sign: str) -> None:
        self.told = directory, sign

    def from_first(self, value: object) -> tuple[Path, str]:
        return self.told

    def gather(self, value: object) -> list[object]:
        return [None, value]


def test_a_node_that_sees_another_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / _SIGN).write_text("of an earlier attempt")
    for directory in (tmp_path, tmp_path / "not here"):
        with pytest.raises(ValueError, match=f"{socket.gethostname()} sees another directory there"):
            shared_directory(Far(directory, "of this one"), lambda: tmp_path, new=False)
    (tmp_path / _SIGN).write_text("of this one")
    assert shared_directory(Far(tmp_path, "of this one"), lambda: tmp_path, new=False) == tmp_path


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def start(command: Sequence[str], log: Path, **environment: str) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=PROJECT,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
            stdout=output,
            stderr=subprocess.STDOUT,
        )


@pytest.mark.slow
def test_nodes_of_srun_with_different_configurations_are_refused(tmp_path: Path) -> None:
    """Both say which key differs, and nothing is left behind."""
    port, tasks = str(free_port()), []
    for number in range(2):
        task = {"STEP_NUM_TASKS": "2", "PROCID": str(number), "LOCALID": "0", "NODEID": str(number)}
        variables = {f"SLURM_{name}": value for name, value in task.items()}
        variables |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        several = ["trainer=ddp_cpu", "trainer.devices=1", "trainer.num_nodes=2", f"directory={tmp_path}/run"]
        command = ["experiments.run", *several, f"seed={number}"]
        tasks.append(start(command, tmp_path / f"{number}.log", **variables))
    assert [task.wait(timeout=300) for task in tasks] == [2, 2]
    for number in range(2):
        said = (tmp_path / f"{number}.log").read_text()
        assert "different configurations: seed is 0 on " in said
        assert len(said.splitlines()) == 1
    assert not (tmp_path / "run").exists()


SHORT = (
    *SHRUNK, "iterations=1", "benchmarks.source.source.items=1", "challenger.settings.steps=1",
    "solver.settings.steps=1", "curriculum.candidates=16", "curriculum.votes=3", "response_tokens=32",
)  # fmt: skip


def nodes(folder: Path, *arguments: str, each: int) -> list[subprocess.Popen[bytes]]:
    """Two agents of torchrun with so many processes each, as on two machines; their output goes to 0.log and 1.log."""
    agent = ["torch.distributed.run", "--nnodes=2", f"--nproc-per-node={each}"]
    agent += ["--master-addr=127.0.0.1", f"--master-port={free_port()}"]
    several = ["trainer=ddp_cpu", f"trainer.devices={each}", "trainer.num_nodes=2"]
    work = ["-m", "experiments.run", *arguments, *several]
    return [start([*agent, f"--node-rank={node}", *work], folder / f"{node}.log") for node in range(2)]


def wait_for_questions(agents: list[subprocess.Popen[bytes]], state: Path) -> None:
    deadline = time.monotonic() + 400
    while not (state.exists() and Ledger.open(state).done("1/questions")):
        assert time.monotonic() < deadline, "no questions in time"
        assert all(agent.poll() is None for agent in agents), "an agent ended"
        time.sleep(0.1)


def same_as(directory: Path, expected: Path) -> None:
    """The questions, the metrics to 1e-4, the weights to 1e-5."""
    there, reference = RunDirectory(directory), RunDirectory(expected)
    assert there.questions(1).read_bytes() == reference.questions(1).read_bytes()
    rows, expected_rows = read_metrics(there.metrics), read_metrics(reference.metrics)
    assert len(rows) == len(expected_rows)
    for row, expected_row in zip(rows, expected_rows, strict=True):
        same = {name: value for name, value in expected_row.items() if not is_timing(name)}
        assert {name: row[name] for name in same} == pytest.approx(same, abs=1e-4)
    for role in ("challenger", "solver"):
        weights = load_file(there.weights(role, 1) / "model.safetensors")
        for name, tensor in load_file(reference.weights(role, 1) / "model.safetensors").items():
            torch.testing.assert_close(weights[name], tensor, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_two_nodes_learn_what_one_process_learns_and_end_with_the_first_that_dies(tmp_path: Path) -> None:
    """Rank 3 is killed when the questions are there: all end within a minute, and one process or two nodes go on.

    Not with as many processes: an interpreter that has imported everything is what takes long here.
    """
    alone = small_run(tmp_path / "alone", *SHORT)
    alone.run()
    alone.close()

    directory = tmp_path / "killed"
    agents = nodes(tmp_path, *SHORT, f"directory={directory}", each=2)
    try:
        wait_for_questions(agents, RunDirectory(directory).state)
        processes = [pid for agent in agents for pid in descendants(agent.pid)]
        victim = next(pid for pid in processes if environment(pid).get("RANK") == "3" and is_run(pid))
        os.kill(victim, signal.SIGKILL)
        killed = time.monotonic()
        codes = [agent.wait(timeout=60) for agent in agents]
        assert time.monotonic() < killed + 60
        assert all(codes), codes
    finally:
        for agent in agents:
            agent.kill()
    said = (tmp_path / "0.log").read_text()
    assert f"rank 3 (pid {victim} on {socket.gethostname()}) is gone without a word" in said
    assert "Signal 9 (SIGKILL)" in (tmp_path / "1.log").read_text()
    shutil.copytree(directory, tmp_path / "nodes")

    several = nodes(tmp_path, f"resume={tmp_path}/nodes", each=1)
    one = start(["experiments.run", f"resume={directory}", "trainer=cpu"], tmp_path / "one.log")
    try:
        assert one.wait(timeout=300) == 0, (tmp_path / "one.log").read_text()
        assert [agent.wait(timeout=300) for agent in several] == [0, 0], (tmp_path / "0.log").read_text()
    finally:
        for process in (one, *several):
            process.kill()
    for resumed in (directory, tmp_path / "nodes"):
        assert Ledger.open(RunDirectory(resumed).state).done("1/evaluation")
        same_as(resumed, tmp_path / "alone")


def environment(pid: int) -> dict[str, str]:
    """What a process was started with."""
    pairs = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    return dict(pair.split("=", 1) for pair in pairs if "=" in pair)


def is_run(pid: int) -> bool:
    """Whether it is a process of the run itself, not one that it started."""
    return "experiments.run" in Path(f"/proc/{pid}/cmdline").read_text().split("\0")
