"""Wrong values, paths and places: one clear message, an exit code, nothing lost. Through the real command."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from experiments import PROJECT, rundir
from experiments.command_line import expand_policy
from experiments.provenance import write_manifest
from experiments.run import begin, command, resumed
from rzero.processes.cpu import describe_cpu
from rzero.runs.questions import NothingKept
from tests.experiments.small import config
from tests.rzero.engines.scripted_server import serving


@dataclass(frozen=True)
class Result:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """The command in this process: `python -m experiments.run ARGUMENTS` costs seconds of imports each time."""

    def run(*arguments: str) -> Result:
        monkeypatch.setattr(sys, "argv", ["experiments/run.py", *arguments])
        try:
            command()
            code: int | str | None = 0
        except SystemExit as stop:
            code = stop.code
        written = capsys.readouterr()
        return Result(returncode=int(code or 0), stdout=written.out, stderr=written.err)

    return run


def test_help_explains_groups_and_examples(run: Callable[..., Result]) -> None:
    result = run("--help")
    assert result.returncode == 0
    for word in (
        "experiment=micro seed=1",
        "challenger: ",
        "curriculum: ",
        "quantile",
        "advantage@solver.settings.advantage",
        "resume=",
        "iterations: 3",
    ):
        assert word in result.stdout


SERVED = ("engine=vllm_server", "engine.retries=0", "engine.host.timeouts.start_s=0.3", "grader=exact")


@pytest.mark.parametrize(
    ("before", "version", "words"),
    [
        (lambda path: 503, "0.32.0", "vLLM replica 0 (URL) was not ready within 0.3 s (engine.host.timeouts.start_s)"),
        (lambda path: None, "0.31.1", "vLLM replica 0 (URL) is vLLM 0.31.1; its routes are those of 0.32 here"),
        (lambda path: 401 if path.startswith("/v1") else None, "0.32.0", "vLLM replica 0 (URL) wants another key"),
    ],
)
def test_a_server_that_cannot_be_used_is_named_in_one_line(
    run: Callable[..., Result], tmp_path: Path, before: Callable[[str], int | None], version: str, words: str
) -> None:
    with serving() as (url, script):
        script.before, script.version = before, version
        result = run(f"directory={tmp_path}/run", *SERVED, f"engine.host.urls=[{url}]")
    assert result.returncode == 2
    [error] = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert words.replace("URL", url) in error
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["iterationz=2"], ["iterationz"]),
        (["challenger=quick"], ["challenger/quick", "official", "paper"]),
        (["solver.settings.samples_per_prompt=1"], ["samples_per_prompt", "at least 2", "got 1"]),
        (["curriculum.rule.band.half_width=1.5"], ["half_width", "1.5", "0.25"]),
        (["curriculum/rule=closed", "curriculum.rule.band.low=0.8", "curriculum.rule.band.high=0.3"], ["low", "0.8"]),
        (["policy=/no/such/place"], ["/no/such/place", "does not exist"]),
        (["iterations=0"], ["iterations", "at least 1"]),
        (["name=../elsewhere"], ["'../elsewhere' cannot be a name"]),
        (["checkpoint_every=-1"], ["checkpoint_every", "at least 0"]),
        (["seed=many"], ["seed", "many"]),
        (["matmul_precision=tf32"], ["matmul_precision", "highest, high or medium", "tf32"]),
        (["challenger.settings.sampling.top_p=1.5"], ["top_p", "1.5"]),
        (["benchmarks.source.source.split=train"], ["split", "dev, test", "train"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_a_wrong_value_is_named_with_what_to_do(
    run: Callable[..., Result], arguments: list[str], words: list[str], tmp_path: Path
) -> None:
    result = run(f"directory={tmp_path}/run", *arguments)
    assert result.returncode != 0
    text = result.stdout + result.stderr
    assert "Traceback" not in text
    for word in words:
        assert word in text, text


def test_a_model_directory_without_a_tokenizer_is_named(run: Callable[..., Result], tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    source = PROJECT / "experiments" / "models" / "micro"
    for name in ("config.json", "model.safetensors"):
        (model / name).symlink_to(source / name)
    result = run(f"directory={tmp_path}/run", f"policy={model}")
    assert result.returncode == 2
    assert "tokenizer" in result.stderr
    assert str(model) in result.stderr


def test_an_unwritable_place_is_named(run: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")
    result = run(f"directory={tmp_path}/file/run")
    assert result.returncode == 2
    assert f"{tmp_path}/file" in result.stderr


def test_an_existing_directory_is_never_written_into(run: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    result = run(f"directory={tmp_path}/run")
    assert result.returncode == 2
    assert "another directory" in result.stderr
    assert not list((tmp_path / "run").iterdir())


def test_an_iteration_without_questions_ends_with_its_own_code(
    run: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def keep_none(*_: object) -> None:
        raise NothingKept("iteration 1: none of 32 candidate questions was kept")

    monkeypatch.setattr("experiments.run.run_locked", keep_none)
    monkeypatch.setattr("experiments.run.report", lambda _: None)
    result = run(f"directory={tmp_path}/run")
    assert (result.returncode, result.stderr) == (3, "error: iteration 1: none of 32 candidate questions was kept\n")


def test_resume_needs_a_run_and_keeps_its_configuration(run: Callable[..., Result], tmp_path: Path) -> None:
    result = run(f"resume={tmp_path}")
    assert result.returncode == 2
    assert "there is no run" in result.stderr
    (tmp_path / "config.yaml").write_text("seed: 0\n")
    result = run(f"resume={tmp_path}", "seed=3")
    assert result.returncode == 2
    assert "remove seed=3" in result.stderr


def damages(content: bytes, *, seed: int) -> Iterator[bytes]:
    """50 truncations and 50 flipped bits."""
    rng = random.Random(seed)
    for number in range(100):
        place = rng.randrange(len(content))
        flipped = bytes([content[place] ^ (1 << rng.randrange(8))])
        yield content[:place] if number % 2 else content[:place] + flipped + content[place + 1 :]


def test_a_damaged_configuration_is_restored_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begin(tmp_path, config("seed=3"))
    path = tmp_path / "config.yaml"
    whole = path.read_bytes()
    for damaged in damages(whole, seed=0):
        path.write_bytes(damaged)
        cfg, _ = resumed(OmegaConf.create({"resume": str(tmp_path)}), [])
        assert cfg == OmegaConf.create(whole.decode())
        assert path.read_bytes() == whole
        assert "restored" in capsys.readouterr().err


def test_a_torn_manifest_is_set_aside_and_said(tmp_path: Path) -> None:
    """It holds times and versions and no state: a run goes on without it, and does not pass for finished."""
    cfg, path = config(), tmp_path / "run.json"
    write_manifest(tmp_path, cfg, finished=False)
    write_manifest(tmp_path, cfg, finished=True)
    whole = path.read_bytes()
    assert [attempt["cpu"] for attempt in json.loads(whole)["attempts"]] == [describe_cpu()]
    assert rundir.finished(tmp_path)
    for length in range(0, len(whole), len(whole) // 50):
        path.write_bytes(whole[:length])
        assert not rundir.finished(tmp_path)
        assert "is damaged" in write_manifest(tmp_path, cfg, finished=False)
        assert (tmp_path / "run.damaged.json").read_bytes() == whole[:length]


def test_a_policy_that_is_no_option_is_taken_for_a_path() -> None:
    assert expand_policy(["policy=/a/b", "seed=1"]) == ["policy=hf", "policy.path_or_id='/a/b'", "seed=1"]
    assert expand_policy(["policy=micro"]) == ["policy=micro"]
    assert expand_policy(["policy=org/name"]) == ["policy=hf", "policy.path_or_id='org/name'"]
