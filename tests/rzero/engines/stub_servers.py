"""Stands in for vLLM servers in a process of its own: answers each row after a pause, on several ports.

python -m tests.rzero.engines.stub_servers 8 0.05     # prints the ports, then serves until it is killed
"""

from __future__ import annotations

import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from rzero.processes.open_files import connections_per_server


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    pause_s = 0.0

    def log_message(self, *_: object) -> None: ...

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        time.sleep(self.pause_s)
        logprobs = {"content": [{"logprob": -0.5}] * 2}
        content = json.dumps({"choices": [{"token_ids": asked["token_ids"][:2], "logprobs": logprobs}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


class Server(ThreadingHTTPServer):
    request_queue_size = 512
    daemon_threads = True


def main() -> None:
    count, Handler.pause_s = int(sys.argv[1]), float(sys.argv[2])
    connections_per_server(512, servers=count)  # for this side's sockets
    servers = [Server(("127.0.0.1", 0), Handler) for _ in range(count)]
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    print(*(server.server_port for server in servers), flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
