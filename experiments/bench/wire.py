"""What a completion from servers costs rank 0: CPU time of the client, beside that of an earlier one, and bytes.

Servers are in a process of their own and answer at once, so what is measured is the client alone: rows side by side in
threads, as in a rollout. A vote is a completion without log-probs.
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from experiments import PROJECT
from experiments.bench import wire_server
from experiments.bench.wire_before import Before
from rzero.engines.rows import Row
from rzero.engines.vllm.requests import Drawn, RowRequest, row_requests
from rzero.engines.vllm.server_client import Replica, Timeouts
from rzero.processes.open_files import connections_per_server
from rzero.types import Json, Sampling

SERVERS, ROWS, TOKENS, PROMPT_TOKENS = 2, 600, 1_229, 250
SIDE_BY_SIDE = (8, 256)
"""Rows under way at each server."""
REPEATS = 2
LIMIT = 0.4
"""What was asked for: our CPU time over that of the client before."""
_TIMEOUTS = Timeouts(start_s=10.0, answer_s=100.0, attempts=5, first_pause_s=0.5)


def run() -> Json:
    """Keys: `wire_ratio` (ours over before, the largest over loads; at most `LIMIT` is asked), CPU milliseconds and
    bytes of an answer, by rows side by side."""
    rows, votes = _requests(logprobs=True), _requests(logprobs=False)
    with _servers() as urls:
        figures: Json = {"wire_ratio": 0.0}
        for threads in SIDE_BY_SIDE:
            wide = connections_per_server(threads, servers=SERVERS)
            before = [Before(url, connections=wide) for url in urls]
            ours = [
                Replica(url, number=number, process=None, timeouts=_TIMEOUTS, connections=wide)
                for number, url in enumerate(urls)
            ]
            assert before[0].draw(rows[0]) == ours[0].draw(rows[0]), "the two clients read an answer differently"
            old = _milliseconds([client.draw for client in before], rows, threads=wide)
            new = _milliseconds([client.draw for client in ours], rows, threads=wide)
            vote = _milliseconds([client.draw for client in ours], votes, threads=wide)
            figures |= {f"before_ms_{threads}": old, f"ours_ms_{threads}": new, f"ours_vote_ms_{threads}": vote}
            figures["wire_ratio"] = max(figures["wire_ratio"], new / old)
            for one, other in zip(before, ours, strict=True):
                one.end()
                other.end()
    for name, logprobs in (("bytes_per_token", True), ("vote_bytes_per_token", False)):
        figures[name] = len(wire_server.answer(TOKENS, logprobs=logprobs)) / TOKENS
    return figures


def _milliseconds(
    draw: Sequence[Callable[[RowRequest], Drawn]], requests: Sequence[RowRequest], *, threads: int
) -> float:
    """CPU milliseconds of this process per completion, the least of some repeats."""
    best = float("inf")
    for _ in range(REPEATS):
        queues = [ThreadPoolExecutor(max_workers=threads) for _ in draw]
        started = time.process_time()
        waiting = [queues[i % len(draw)].submit(draw[i % len(draw)], row) for i, row in enumerate(requests)]
        for answer in waiting:
            assert len(answer.result().token_ids) == TOKENS
        best = min(best, 1e3 * (time.process_time() - started) / len(requests))
        for queue in queues:
            queue.shutdown()
    return best


def _requests(*, logprobs: bool) -> list[RowRequest]:
    generator = random.Random(0)
    prompt = [generator.randrange(wire_server.VOCABULARY) for _ in range(PROMPT_TOKENS)]
    rows = [Row(prompt=0, sample=sample, limit=4096) for sample in range(ROWS)]
    sampling = Sampling(n=ROWS, top_p=0.99, max_tokens=4096)
    return row_requests(rows, [prompt], sampling, eos_ids=(151_643,), logprobs=logprobs)


@contextmanager
def _servers() -> Iterator[list[str]]:
    """The addresses of servers that are there while the context lasts."""
    code = f"import asyncio, {wire_server.__name__} as server; asyncio.run(server.serve({SERVERS}, {TOKENS}))"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield [f"http://127.0.0.1:{port}" for port in process.stdout.readline().split()]
        finally:
            process.kill()
