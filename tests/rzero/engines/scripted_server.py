"""A stand-in for a vLLM server in this process: it writes down what it is asked, and answers as a test wants."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Scripted:
    """A server that echoes prompts as completions.

    `before(path)` may delay, or return a status or "hang up". `reply(body)`: the token ids that are drawn.
    """

    def __init__(self) -> None:
        self.before: Callable[[str], int | str | None] = lambda path: None
        self.reply: Callable[[Any], Sequence[int]] = lambda body: body["token_ids"][:2]
        self.version = "0.32.0"
        self.checksums = {"model.norm.weight": "as ever"}
        self.asked: list[tuple[str, Any]] = []
        self.keys: set[str | None] = set()  # what requests came with

    def bodies(self, path: str) -> list[Any]:
        """What was posted to a path, in order."""
        return [body for asked, body in self.asked if asked == path]

    def answer(self, body: Any) -> dict[str, Any]:
        """One answer to everything, in the shapes of all of vLLM's routes."""
        answer: dict[str, Any] = {
            "data": [{"max_model_len": 256}],
            "success": True,
            "results": [None],
            "version": self.version,
        }
        answer |= {"checksums": self.checksums, "world_size": 2}
        if body and "token_ids" in body:
            ids = list(self.reply(body))
            steps = [{"token_id": token, "logprob": -0.5, "rank": 1, "top_logprobs": []} for token in ids]
            wanted = body["sampling_params"].get("logprobs") is not None
            answer["choices"] = [{"token_ids": ids, "logprobs": {"content": steps} if wanted else None}]
        return answer


@contextmanager
def serving() -> Iterator[tuple[str, Scripted]]:
    """The address of a server that is there while the context lasts, and its script."""
    script = Scripted()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # else a kept connection waits 40 ms between head and body

        def log_message(self, *_: object) -> None: ...

        def do_GET(self) -> None:
            self.respond(None)

        def do_POST(self) -> None:
            self.respond(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def respond(self, body: Any) -> None:
            script.asked.append((self.path, body))
            script.keys.add(self.headers["Authorization"])
            verdict = script.before(self.path)
            if verdict == "hang up":
                self.close_connection = True
                self.connection.close()
                return
            content = json.dumps(script.answer(body)).encode()
            self.send_response(verdict if isinstance(verdict, int) else 200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True  # connections are kept alive
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a client that has given up
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", script
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
