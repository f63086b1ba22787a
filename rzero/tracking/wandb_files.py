"""The offline files of a W&B run: what stands in them, by W&B's own reader, and whether they can be written at all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from rzero.types import Json

FOLDER = "wandb"


def require_writable(directory: str | Path) -> None:
    """Raises OSError naming the folder where W&B's files cannot be written; W&B itself would go to /tmp."""
    folder = Path(directory) / FOLDER
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(error.errno, f"W&B cannot write there: {error.strerror}", str(folder)) from error


def last_step(directory: str | Path, *, run_id: str) -> int:
    """Returns the last step that stands in an offline file of the run; 0 without any.

    The files are what counts: W&B writes them some time after it is told, and a killed run loses the difference.
    Raises OSError when W&B's reader cannot read one.
    """
    files = Path(directory).glob(f"{FOLDER}/offline-run-*/run-{run_id}.wandb")
    rows = [record["history"] for path in files for record in records(path) if record.get("type") == "history"]
    return max((int(row["step"]["num"]) for row in rows), default=0)


def records(path: Path) -> list[Json]:
    """Returns every whole record of an offline file, in order, as `wandb leet inspect` prints it.

    Raises OSError when it cannot be read.
    """
    command = [sys.executable, "-W", "ignore", "-m", "wandb", "leet", "inspect", "--json", str(path)]
    quiet = {**os.environ, "WANDB_MODE": "offline", "WANDB_ERROR_REPORTING": "false"}  # nothing is sent anywhere
    done = subprocess.run(command, capture_output=True, env=quiet, check=False)
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise OSError(f"{path} is no offline file of W&B ({last}); move it away to go on without it")
    return [json.loads(line) for line in done.stdout.split(b"\n") if line.startswith(b"{")]
