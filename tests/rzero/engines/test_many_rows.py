"""Eight servers with 256 rows each, under the limit of 1,024 open files that most machines start with."""

from __future__ import annotations

import subprocess
import sys

from tests.rzero.engines import stub_servers

CLIENT = """
import sys
from rzero.engines.vllm.requests import RowRequest
from rzero.engines.vllm.server_client import Replica, Timeouts
from rzero.engines.vllm.servers import Files, VllmServers
from rzero.engines.vllm.transfer import ThroughFiles
timeouts = Timeouts(start_s=5.0, answer_s=60.0, attempts=1, first_pause_s=0.0)
settings = VllmServers(
    urls=[f"http://127.0.0.1:{port}" for port in sys.argv[1:]], replicas=1, devices=(), arguments=(), exchange=None,
    threads=1, kv_cache_gib=None, gpu_memory_utilization=0.5, max_batched_tokens=2048, enforce_eager=True,
    sleep_level=0, timeouts=timeouts, transfer=ThroughFiles(),
)
served = settings.start(max_rows=256, max_tokens=None)
served._replicas = [served._open(number) for number in range(8)]
rows = [RowRequest(prompt_ids=(row, 6, 7), params={"max_tokens": 2}) for row in range(2048)]
drawn = served.draw(rows, Files(architecture=None, directory=None, weights={}, fingerprints={}))
assert [row.token_ids[0] for row in drawn] == list(range(2048))
print("answered", len(drawn))
"""


def test_two_thousand_rows_under_the_usual_limit() -> None:
    command = [sys.executable, "-m", stub_servers.__name__, "8", "0.02"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as stub:
        try:
            assert stub.stdout is not None
            ports = stub.stdout.readline().split()
            client = ["bash", "-c", 'ulimit -n 1024; exec "$0" -c "$@"', sys.executable, CLIENT, *ports]
            done = subprocess.run(client, capture_output=True, text=True, timeout=120, check=False)
        finally:
            stub.kill()
    assert done.stdout == "answered 2048\n", done.stderr
