"""Look through runs in a browser: curves, questions with all answers and votes, iterations side by side.

python -m experiments.browse outputs/micro/2026-11-22_10-00-00_seed0
python -m experiments.browse RUN RUN RUN --port 8000
python -m experiments.browse outputs/micro            # all runs in a folder

Serves this machine only, changes nothing, and needs no network. Ctrl-C ends it.
"""

from __future__ import annotations

import contextlib
import socket
import sys
from collections.abc import Sequence

import uvicorn

from experiments.browsing.pages import create_app
from experiments.command_line import DONE, command_parser, exit_code
from experiments.paths import place
from experiments.rundir import runs_in

LOOPBACK = "127.0.0.1"


def port(text: str) -> int:
    """Return a port as a number. Raises ValueError for what is none."""
    number = int(text)
    if not 0 <= number < 2**16:
        raise ValueError(f"a port is below {2**16}")
    return number


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit codes: 0 ended by the user, 2 a wrong path, a damaged file or a port in use."""
    parser = command_parser("experiments.browse", __doc__)
    parser.add_argument(
        "runs", nargs="+", type=place, metavar="RUN", help="a run, finished or not, or a folder of runs"
    )
    parser.add_argument("--port", type=port, default=0, help="port on this machine; default: any that is free")
    options = parser.parse_args(arguments)

    def work() -> int:
        app = create_app(runs_in(options.runs))
        with socket.create_server((LOOPBACK, options.port)) as listening:
            print(f"http://{LOOPBACK}:{listening.getsockname()[1]}/ (Ctrl-C ends it)", flush=True)
            server = uvicorn.Server(uvicorn.Config(app, log_level="warning", server_header=False))
            with contextlib.suppress(KeyboardInterrupt):
                server.run(sockets=[listening])
        return DONE

    return exit_code(work)


if __name__ == "__main__":
    sys.exit(main())
