"""Look through runs in a browser: curves, questions with all answers and votes, iterations side by side.

python -m experiments.browse outputs/micro/2026-11-22_10-00-00_seed0
python -m experiments.browse RUN RUN RUN --port 8000

Serves this machine only, changes nothing, and needs no network. Ctrl-C ends it.
"""

from __future__ import annotations

import contextlib
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import uvicorn

from experiments.browsing.pages import create_app
from experiments.command_line import DONE, WRONG, command_parser, complain

LOOPBACK = "127.0.0.1"


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit codes: 0 ended by the user, 2 a wrong path, a damaged file or a port in use."""
    parser = command_parser("experiments.browse", __doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="directory of a run, finished or not")
    parser.add_argument("--port", type=int, default=0, help="port on this machine; default: any that is free")
    options = parser.parse_args(arguments)
    try:
        app = create_app(options.runs)
        listening = socket.create_server((LOOPBACK, options.port))
    except (OSError, OverflowError, ValueError) as error:
        complain(error)
        return WRONG
    with listening:
        print(f"http://{LOOPBACK}:{listening.getsockname()[1]}/ (Ctrl-C ends it)", flush=True)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", server_header=False))
        with contextlib.suppress(KeyboardInterrupt):
            server.run(sockets=[listening])
    return DONE


if __name__ == "__main__":
    sys.exit(main())
