"""vLLM behind servers: waiting, retries, time-outs, dealing, death against a scripted server; one real kill -9."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from rzero.engines.vllm import VllmEngine, server_process
from rzero.engines.vllm import servers as fleet
from rzero.engines.vllm.requests import Finished, RowRequest
from rzero.engines.vllm.retry import EngineDied
from rzero.engines.vllm.server_client import Replica, Timeouts
from rzero.engines.vllm.server_process import ServerProcess, free_port
from rzero.engines.vllm.servers import VllmServers
from rzero.engines.vllm.snapshot import architecture
from rzero.engines.vllm.transfer import ThroughFiles
from rzero.types import Prompt, Sampling
from tests.rzero.engines.scripted_server import Scripted, serving

PATIENCE = Timeouts(start_s=5.0, answer_s=0.5, attempts=3, first_pause_s=0.01)
REQUEST = RowRequest(prompt_ids=(5, 6), params={"max_tokens": 2, "logprobs": 0})
SETTINGS: dict[str, Any] = {
    "urls": (), "replicas": 1, "devices": (), "arguments": (), "exchange": None, "threads": 1, "kv_cache_gib": 0.25,
    "gpu_memory_utilization": 0.5, "max_batched_tokens": 2048, "enforce_eager": True, "sleep_level": 0,
    "timeouts": PATIENCE, "transfer": ThroughFiles(),
}  # fmt: skip
PROMPTS = [Prompt(user="What is 12 + 34?"), Prompt(user="x")]


def tokens(groups):
    return [[completion.token_ids for completion in group.completions] for group in groups]


@contextmanager
def talking() -> Iterator[tuple[Replica, Scripted]]:
    with serving() as (url, script):
        replica = Replica(url, number=3, process=None, timeouts=PATIENCE, connections=4)
        yield replica, script
        replica.end()


def first(count: int, verdict: int | str) -> Callable[[str], int | str | None]:
    """`verdict` for the first `count` requests."""
    left = [verdict] * count
    return lambda path: left.pop() if left else None


def test_a_server_that_is_not_ready_yet_is_waited_for():
    with talking() as (replica, script):
        script.before = first(2, 503)
        replica.await_ready()
        assert [path for path, _ in script.asked] == [*["/health"] * 3, "/version"]


def test_waiting_ends_with_the_name_of_the_replica():
    timeouts = Timeouts(start_s=0.3, answer_s=0.5, attempts=1, first_pause_s=0.0)
    replica = Replica(f"http://127.0.0.1:{free_port()}", number=3, process=None, timeouts=timeouts, connections=1)
    with pytest.raises(EngineDied, match=r"vLLM replica 3 \(http.*\) was not ready within 0.3 s"):
        replica.await_ready()
    with pytest.raises(EngineDied, match=r"vLLM replica 3 .* cannot be reached while drawing"):
        replica.draw(REQUEST)
    replica.end()


def test_a_broken_connection_is_tried_again():
    with talking() as (replica, script):
        script.before = first(2, "hang up")
        assert replica.draw(REQUEST).token_ids == (5, 6)
        assert len(script.asked) == 3
        script.before = first(3, "hang up")
        with pytest.raises(EngineDied, match="cannot be reached while drawing"):
            replica.draw(REQUEST)


def test_an_answer_that_never_comes_names_the_phase():
    with talking() as (replica, script):
        script.before = lambda path: time.sleep(1.0)
        with pytest.raises(EngineDied, match=r"replica 3 .* gave no answer within 0.5 s while loading weights"):
            replica.load(Path("weights"))


def test_statuses_tell_death_from_a_wrong_request():
    with talking() as (replica, script):
        script.before = lambda path: 500
        with pytest.raises(EngineDied, match="failed with status 500 while drawing"):
            replica.draw(REQUEST)
        script.before = lambda path: 404
        with pytest.raises(RuntimeError, match=r"refused a request while drawing .status 404") as refused:
            replica.draw(REQUEST)
        assert not isinstance(refused.value, EngineDied)


def test_the_key_comes_from_the_environment(monkeypatch):
    with talking() as (replica, script):
        replica.draw(REQUEST)
        assert script.keys == {None}
        script.before = lambda path: 401
        with pytest.raises(RuntimeError, match="wants another key than that in the environment variable VLLM_API_KEY"):
            replica.draw(REQUEST)
    monkeypatch.setenv("VLLM_API_KEY", "not for other eyes")
    with talking() as (replica, script):
        replica.await_ready()
        replica.draw(REQUEST)
        assert script.keys == {"Bearer not for other eyes"}


@pytest.mark.parametrize("answer", [{}, {"choices": []}, {"choices": [{"token_ids": ["a"]}]}])
def test_an_answer_in_another_form_is_named(monkeypatch, answer):
    with talking() as (replica, script):
        monkeypatch.setattr(script, "answer", lambda body: answer)
        with pytest.raises(RuntimeError, match=r"replica 3 .* gave an answer that is none of vLLM 0\.32's"):
            replica.draw(REQUEST)


def test_rows_are_dealt_over_replicas_and_weights_reach_all_of_them(make_policy):
    with serving() as (one, first_script), serving() as (two, second_script):
        host = VllmServers(**{**SETTINGS, "urls": [one, two]}).start(max_rows=4, max_tokens=None)
        files = host.take(make_policy("qwen3_tied"))
        assert {path.name for path in files.directory.iterdir()} == {"config.json", "model.safetensors"}
        assert host.load(files) == 256
        assert host.load(files) == 256  # known there already
        rows = [RowRequest(prompt_ids=(index, 7), params={}) for index in range(7)]
        told: list[tuple[int, ...]] = []
        finished = Finished(lambda *progress: told.append(progress))
        assert [drawn.token_ids[0] for drawn in host.draw(rows, files, finished=finished)] == list(range(7))
        assert [done for done, _, _ in told] == list(range(1, 8))
        assert {total for _, total, _ in told} == {7}
        for script, share in ((first_script, {0, 1, 2, 3}), (second_script, {4, 5, 6})):
            loads = script.bodies("/collective_rpc")
            assert loads == [{"method": "reload_weights", "kwargs": {"weights_path": str(files.directory)}}]
            assert [path for path, _ in script.asked].count("/reset_prefix_cache") == 1
            drawn = {body["token_ids"][0] for path, body in script.asked if path.endswith("generate")}
            assert drawn == share
        host.forget(files)
        assert not files.directory.exists()
        host.shut_down()


def test_all_replicas_draw_at_once_however_many_rows_wait_for_the_first(make_policy):
    """Each answers its rows when the other has been asked for one."""
    asked, met = (threading.Event(), threading.Event()), []
    with serving() as (one, first_script), serving() as (two, second_script):
        host = VllmServers(**{**SETTINGS, "urls": [one, two], "timeouts": replace(PATIENCE, answer_s=20)}).start(
            max_rows=1, max_tokens=None
        )
        files = host.take(make_policy("qwen3_tied"))
        host.load(files)
        for number, script in enumerate((first_script, second_script)):

            def wait(path: str, number: int = number) -> None:
                asked[number].set()
                met.append(asked[1 - number].wait(timeout=10))

            script.before = wait
        rows = [RowRequest(prompt_ids=(index, 7), params={}) for index in range(8)]
        assert [drawn.token_ids[0] for drawn in host.draw(rows, files)] == list(range(8))
        assert met == [True] * 8
        host.shut_down()


def test_nothing_is_under_way_when_a_death_is_reported(make_policy):
    started, ended = [], []
    with serving() as (one, first_script), serving() as (two, second_script):
        host = VllmServers(**{**SETTINGS, "urls": [one, two]}).start(max_rows=2, max_tokens=None)
        files = host.take(make_policy("qwen3_tied"))
        host.load(files)

        def slow(path: str) -> None:
            started.append(path)
            time.sleep(0.3)
            ended.append(path)

        second_script.before = slow
        first_script.before = lambda path: 500 if started else time.sleep(0.1)
        with pytest.raises(EngineDied):
            host.draw([RowRequest(prompt_ids=(index, 7), params={}) for index in range(20)], files)
        assert len(started) == len(ended) < 10
        host.shut_down()


def test_a_call_is_repeated_when_a_server_of_yours_comes_back(make_policy, monkeypatch):
    monkeypatch.setattr(
        VllmEngine, "verify", lambda self, policy, ranks: self._draw([REQUEST])
    )  # echoes have no log-probs
    with serving() as (url, script):
        engine = VllmEngine(
            host=VllmServers(**{**SETTINGS, "urls": [url]}), max_rows=4, max_model_len=None, retries=1, tolerance=1e-4
        )
        engine.sync(make_policy("qwen3"))
        expected = engine.generate(PROMPTS, Sampling(max_tokens=2))
        script.before = first(1, 500)
        assert engine.generate(PROMPTS, Sampling(max_tokens=2)) == expected
        loads = [path for path, _ in script.asked if path == "/collective_rpc"]
        assert len(loads) == 2  # whoever was away is given the weights again
        script.before = lambda path: 500 if path.endswith("generate") else None
        with pytest.raises(RuntimeError, match=r"died 2 times in one call \(engine.retries=1\).*vLLM replica 0"):
            engine.generate(PROMPTS, Sampling(max_tokens=2))
        engine.close()


FAMILY = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print("child", child.pid, flush=True)
if "die" in sys.argv:
    sys.exit("no room for weights")
time.sleep(60)
"""


def start_family(monkeypatch: pytest.MonkeyPatch, folder: Path, *arguments: str) -> tuple[ServerProcess, int]:
    """A stand-in for a server, with a child of its own; the child's id."""
    monkeypatch.setattr(server_process, "_LAUNCH", FAMILY)
    started = ServerProcess(folder, arguments, environment={}, threads=1, log=folder / "log")
    deadline = time.monotonic() + 20
    while "child" not in started.log_tail() and time.monotonic() < deadline:
        time.sleep(0.05)
    return started, int(started.log_tail().split()[1])


def gone(pid: int) -> bool:
    for _ in range(100):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


def test_ending_a_server_ends_its_children_and_nobody_else(monkeypatch, tmp_path):
    (tmp_path / "other").mkdir()
    started, child = start_family(monkeypatch, tmp_path)
    other, others_child = start_family(monkeypatch, tmp_path / "other")
    started.end()
    assert gone(started.pid)
    assert gone(child)
    assert other.exit_code() is None
    assert psutil.pid_exists(others_child)
    other.end()
    assert gone(others_child)


def test_a_server_that_ends_while_starting_is_quoted(monkeypatch, tmp_path):
    started, child = start_family(monkeypatch, tmp_path, "die")
    replica = Replica(f"http://127.0.0.1:{started.port}", number=0, process=started, timeouts=PATIENCE, connections=1)
    with pytest.raises(
        EngineDied, match=r"(?s)replica 0 .* ended with exit code 1 while starting.*no room for weights"
    ):
        replica.await_ready()
    replica.end()
    assert gone(child)


def test_arguments_of_our_servers(make_policy):
    settings = VllmServers(**{**SETTINGS, "arguments": ["--tensor-parallel-size", 2]})
    arguments = settings.serve_arguments(architecture(make_policy("qwen3")), max_rows=9, max_tokens=None)
    text = " ".join(arguments)
    for expected in (
        "--max-num-seqs 9", "--logprobs-mode processed_logprobs", "--tokens-only", "--enforce-eager",
        "--no-enable-chunked-prefill", "--max-num-batched-tokens 2048", "--dtype float32", "--tensor-parallel-size 2",
    ):  # fmt: skip
        assert expected in text
    assert "max-model-len" not in text
    assert hash(settings) == hash(VllmServers(**{**SETTINGS, "arguments": ("--tensor-parallel-size", "2")}))


def test_servers_on_other_machines_need_a_folder_that_they_share():
    urls = ["http://127.0.0.1:8000", "http://node7:8000"]
    with pytest.raises(ValueError, match=r"engine.host.exchange must name a folder that http://node7:8000 can read"):
        VllmServers(**{**SETTINGS, "urls": urls})
    VllmServers(**{**SETTINGS, "urls": urls, "exchange": "/shared"})


@pytest.mark.parametrize("level", [1, 2])
def test_sleeping_servers_wake_weights_first_and_the_cache_last(make_policy, level):
    with serving() as (one, first_script), serving() as (two, second_script):
        settings = VllmServers(**{**SETTINGS, "urls": [one, two], "sleep_level": level})
        host = settings.start(max_rows=4, max_tokens=None)
        files = host.take(make_policy("qwen3_tied"))
        host.rest()  # nothing runs yet
        host.load(files)
        host.rest()
        host.rest()  # asleep already
        for script in (first_script, second_script):
            posted = [path for path, body in script.asked if body is not None]
            assert posted == ["/collective_rpc", "/reset_prefix_cache", f"/sleep?level={level}"]
            script.asked.clear()
        host.load(files)
        host.load(files)  # awake
        reload = ["/collective_rpc", "/reset_prefix_cache"] if level == 2 else []
        for script in (first_script, second_script):
            posted = [path for path, body in script.asked if body is not None]
            assert posted == ["/wake_up?tags=weights", *reload, "/wake_up?tags=kv_cache"]
        host.shut_down()


def test_our_servers_are_told_that_they_may_sleep_where_there_are_gpus(make_policy, monkeypatch):
    shape, settings = architecture(make_policy("qwen3")), VllmServers(**{**SETTINGS, "sleep_level": 1})
    assert "--enable-sleep-mode" not in settings.serve_arguments(shape, max_rows=9, max_tokens=None)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert "--enable-sleep-mode" in settings.serve_arguments(shape, max_rows=9, max_tokens=None)


@pytest.mark.parametrize(
    "wrong",
    [{"sleep_level": 3}, {"replicas": 0}, {"threads": 0}, {"max_batched_tokens": 0}, {"devices": ["0"], "replicas": 2}],
)
def test_wrong_fleets_are_refused(wrong):
    with pytest.raises(ValueError, match=r"engine\.host\."):
        VllmServers(**{**SETTINGS, **wrong})
    with pytest.raises(ValueError, match="timeouts"):
        Timeouts(start_s=1.0, answer_s=0.0, attempts=1, first_pause_s=0.0)


@pytest.mark.vllm
def test_a_server_killed_in_the_middle_of_a_call_is_replaced_and_the_result_is_the_same(
    served_engine, adapted, monkeypatch
):
    """Its successor is given weights and adapters again. Those of the contract's last test are of the same vLLM."""
    served_engine.sync(adapted(1))
    sampling = Sampling(n=8, max_tokens=60, seed=3)
    expected = served_engine.generate(PROMPTS, sampling)
    host = served_engine._host
    before = host._replicas[0].process
    family = [process.pid for process in psutil.Process(before.pid).children(recursive=True)]
    asked, draw = [], fleet.Replica.draw

    def kill_and_draw(self, request, model):
        asked.append(request)
        if len(asked) == 5:  # others are under way; what this one asks for nobody can answer any more
            os.kill(before.pid, signal.SIGKILL)
        return draw(self, request, model=model)

    monkeypatch.setattr(fleet.Replica, "draw", kill_and_draw)
    again = served_engine.generate(PROMPTS, sampling)
    assert tokens(again) == tokens(expected)
    after = host._replicas[0].process
    assert after.pid != before.pid
    assert len(asked) > 16, "the call was made again"
    assert all(gone(pid) for pid in family), "children of the killed server"
    monkeypatch.undo()
    served_engine.close()
    assert gone(after.pid)
    assert host._replicas == []
