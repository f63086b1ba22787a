"""Processes of torchrun and srun are recognised; what would be separate experiments, or is incomplete, is refused."""

from __future__ import annotations

import pytest

from rzero.processes.started import Started

TORCHRUN = {
    "RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "GROUP_RANK": "1", "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "first", "MASTER_PORT": "29500",
}  # fmt: skip
SRUN = {
    "SLURM_JOB_ID": "1234567", "SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "3", "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1", "SLURM_STEP_NODELIST": "gpu[07-08]",
}  # fmt: skip


def test_the_variables_of_torchrun_are_read() -> None:
    started = Started.found({**SRUN, **TORCHRUN})  # its agents may be tasks of srun
    assert started == Started(launcher="torchrun", rank=3, size=4, local_rank=1, node=1, address="first", port=29500)
    started.check(devices=2, nodes=2)


def test_the_variables_of_srun_are_read() -> None:
    started = Started.found(SRUN)
    assert started == Started(launcher="srun", rank=3, size=4, local_rank=1, node=1, address="gpu07", port=19567)
    started.check(devices=2, nodes=2)
    chosen = Started.found({**SRUN, "MASTER_ADDR": "other", "MASTER_PORT": "5"})
    assert chosen is not None
    assert (chosen.address, chosen.port) == ("other", 5)


@pytest.mark.parametrize(
    "environment",
    [{}, {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "1"}, {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8", "SLURM_NNODES": "2"},
     {"SLURM_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3"}, {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}],
)  # fmt: skip
def test_a_job_or_an_array_without_srun_is_one_process(environment: dict[str, str]) -> None:
    assert Started.found(environment) is None


@pytest.mark.parametrize("sign", ["RANK", "WORLD_SIZE", "LOCAL_RANK", "GROUP_RANK", "NODE_RANK"])
def test_a_rank_that_was_set_by_hand_is_refused(sign: str) -> None:
    with pytest.raises(ValueError, match=f"^{sign} set but not .*MASTER_PORT.*torchrun or srun"):
        Started.found({sign: "1"})


def test_a_variable_that_is_no_number_is_named() -> None:
    with pytest.raises(ValueError, match="WORLD_SIZE has to be a whole number, got 'two'"):
        Started.found({**TORCHRUN, "WORLD_SIZE": "two"})


@pytest.mark.parametrize(("devices", "nodes"), [(1, 1), (2, 1), (4, 2)])
@pytest.mark.parametrize("environment", [TORCHRUN, SRUN])
def test_other_numbers_than_were_started_are_refused(environment: dict[str, str], devices: int, nodes: int) -> None:
    started = Started.found(environment)
    assert started is not None
    with pytest.raises(
        ValueError, match=f"started 4 processes, but trainer.devices={devices} x trainer.num_nodes={nodes}"
    ):
        started.check(devices=devices, nodes=nodes)


def test_processes_that_are_dealt_out_in_turn_are_refused() -> None:
    started = Started.found({**SRUN, "SLURM_PROCID": "2"})
    assert started is not None
    with pytest.raises(ValueError, match=r"srun made process 1 of node 1 rank 2; .* 2 processes in a row"):
        started.check(devices=2, nodes=2)
