"""Starting a `vllm serve` process of our own on this machine, and ending exactly that one."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path

_GRACE_S = 20.0  # for an orderly end, before it is killed
# The server dies with the process that started it, which it has to ask for itself. It is called by its function:
# vLLM's command looks for the metadata of a package `vllm`, and the CPU build has another name.
_LAUNCH = (
    "import ctypes, signal; ctypes.CDLL(None).prctl(1, signal.SIGTERM, 0, 0, 0); "
    "from vllm.entrypoints.launchers.api_server.entry import main; main()"
)
_ENVIRONMENT = {
    "VLLM_SERVER_DEV_MODE": "1",  # the routes that exchange weights
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",  # and adapters
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
}

_OURS = ("LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
"""The place of a process in a run of several, which a server is not one of."""


class ServerProcess:
    """A server on a free port of 127.0.0.1, in a process group of its own. Its output goes to the file `log`."""

    def __init__(
        self, model: Path, arguments: Sequence[str], *, environment: Mapping[str, str], threads: int, log: Path
    ) -> None:
        self.port, self._log = free_port(), log
        place = ["--model", str(model), "--host", "127.0.0.1", "--port", str(self.port)]
        variables = {**os.environ, **_ENVIRONMENT, "OMP_NUM_THREADS": str(threads), **environment}
        variables = {name: value for name, value in variables.items() if name not in _OURS}
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _LAUNCH, *place, *arguments],
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._end = weakref.finalize(self, _end, self._process)  # also when this interpreter exits

    @property
    def pid(self) -> int:
        """The process id of the server, which is also that of its process group."""
        return self._process.pid

    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    def log_tail(self) -> str:
        """The end of its log."""
        return self._log.read_bytes()[-2000:].decode(errors="replace").strip()

    def end(self) -> None:
        """Ends the server and every process that it started."""
        self._end()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # also children that outlived it
    process.wait()
