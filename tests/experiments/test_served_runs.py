"""Runs on two vLLM servers: several processes, and two nodes, learn what one process learns."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from hydra.utils import instantiate

from experiments import PROJECT
from rzero.engines.vllm.server_client import API_KEY
from rzero.engines.vllm.server_process import ServerProcess
from rzero.engines.vllm.snapshot import architecture
from rzero.policy import load_policy
from tests.experiments.small import config, small_run
from tests.experiments.test_nodes import SHORT, nodes, same_as

pytestmark = [pytest.mark.slow, pytest.mark.vllm]

SECRET = "not for other eyes"
OURS = ("engine.host.kv_cache_gib=0.5", "engine.host.max_batched_tokens=4096")
"""What servers that we start are told."""
SERVED = (*SHORT, "engine=vllm_server", "engine.max_rows=64")


@dataclass(frozen=True, slots=True, kw_only=True)
class Alone:
    """A run of one process, and the servers of yours that it was on, which are still there."""

    directory: Path
    urls: str


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Alone]:
    """The servers want a key, which both sides take from the environment."""
    folder = tmp_path_factory.mktemp("alone")
    with ExitStack() as stack:
        stack.enter_context(pytest.MonkeyPatch.context()).setenv(API_KEY, SECRET)
        model = PROJECT / "experiments" / "models" / "micro"
        servers = [serve(model, folder / f"server_{number}.log", stack) for number in range(2)]
        urls = ",".join(f"http://127.0.0.1:{server.port}" for server in servers)
        run = small_run(folder / "run", *SERVED, f"engine.host.urls=[{urls}]")
        run.run()
        run.close()
        yield Alone(directory=folder / "run", urls=urls)


def serve(model: Path, log: Path, stack: ExitStack) -> ServerProcess:
    """A server as the documentation says that one of yours is started; it ends with the context."""
    settings = instantiate(config("engine=vllm_server", *OURS).engine.host)
    shape = architecture(load_policy(model, dtype="float32", attn_implementation="sdpa"))
    arguments = settings.serve_arguments(shape, max_rows=64, max_tokens=None)
    server = ServerProcess(model, arguments, environment={}, threads=1, log=log)
    stack.callback(server.end)
    return server


def test_two_nodes_learn_from_servers_of_yours_what_one_process_learns(alone: Alone, tmp_path: Path) -> None:
    """Nobody writes the key down."""
    arguments = (*SERVED, f"engine.host.urls=[{alone.urls}]", f"directory={tmp_path}/nodes")
    agents = nodes(tmp_path, *arguments, each=1)
    try:
        assert [agent.wait(timeout=400) for agent in agents] == [0, 0], (tmp_path / "0.log").read_text()
    finally:
        for agent in agents:
            agent.kill()
    same_as(tmp_path / "nodes", alone.directory)
    files = [path for folder in (tmp_path, alone.directory.parent) for path in folder.rglob("*") if path.is_file()]
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]


def test_two_processes_that_share_weights_out_learn_from_two_servers_what_one_process_learns(
    alone: Alone, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """FSDP2: both servers get weights put together from both processes, and both processes get what they drew."""
    run = small_run(tmp_path / "two", *SERVED, *OURS, "trainer=fsdp_cpu", "engine.host.replicas=2")
    run.run()
    run.close()
    assert "Connection pool is full" not in caplog.text, "every request opened a connection of its own"
    same_as(tmp_path / "two", alone.directory)
