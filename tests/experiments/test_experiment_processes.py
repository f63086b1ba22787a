"""SIGTERM to a command ends what it has started, in order, whichever of its threads waits for it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from experiments import PROJECT
from experiments.command_line import TERMINATED
from experiments.processes import carry_out

SLEEPS = """
import pathlib, sys, time
from experiments.processes import terminable

with terminable():
    try:
        pathlib.Path(sys.argv[1]).touch()
        time.sleep(600)
    finally:
        pathlib.Path(sys.argv[1] + ".closed").touch()
"""
STUDY = """
import sys
from concurrent.futures import ThreadPoolExecutor
from experiments.command_line import exit_code
from experiments.processes import carry_out

def work():
    with ThreadPoolExecutor() as pool:
        return max(code for code, _ in pool.map(one, sys.argv[2:])) if sys.argv[1] == "threads" else one(sys.argv[2])[0]

def one(place):
    return carry_out([sys.executable, "-c", CHILD, place], log=None)

sys.exit(exit_code(work, stopped="the same command goes on"))
"""


@pytest.mark.parametrize("ways", [["alone", "one"], ["threads", "one", "two"]], ids=" ".join)
def test_sigterm_ends_what_a_command_waits_for(tmp_path: Path, ways: list[str]) -> None:
    way, *names = ways
    places = [tmp_path / name for name in names]
    code = f"CHILD = {SLEEPS!r}\n{STUDY}"
    command = [sys.executable, "-c", code, way, *map(str, places)]
    with subprocess.Popen(command, cwd=PROJECT, stderr=subprocess.PIPE, text=True) as study:
        while not all(place.exists() for place in places):
            assert study.poll() is None, study.communicate()[1]
            time.sleep(0.05)
        children = psutil.Process(study.pid).children()
        assert len(children) == len(places)
        study.send_signal(signal.SIGTERM)
        _, said = study.communicate(timeout=120)
    assert study.returncode == TERMINATED
    assert said.endswith("error: stopped by SIGTERM; the same command goes on\n")
    assert not any(child.is_running() for child in children)
    assert all(place.with_name(f"{place.name}.closed").exists() for place in places), "they ended in order"


def test_what_a_command_said_is_returned_where_it_failed_and_kept_where_a_log_is_named(tmp_path: Path) -> None:
    fails = [sys.executable, "-c", "import sys; print('told'); sys.exit('why')"]
    assert carry_out(fails, log=None) == (1, "why\n")
    log = tmp_path / "place" / "seed0.log"
    code, said = carry_out(fails, log=log)
    assert (code, sorted(said.split())) == (1, ["told", "why"])
    assert carry_out([sys.executable, "-c", "print('fine')"], log=log) == (0, "")
    assert log.read_text().endswith("fine\n")
