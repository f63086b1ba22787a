"""Every experiment of the paper runs a round with a random model of its architecture in place of the weights."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from transformers import AutoConfig

from experiments.dry_run import dry_run, main, replies
from experiments.report import write_report
from rzero.adapters import holds_adapters
from rzero.types import Prompt

POLICIES = ("qwen3_4b_base", "qwen3_8b_base", "octothinker_3b", "octothinker_8b")
EXPERIMENTS = (
    *(f"experiment=paper policy={policy}" for policy in POLICIES),
    *(f"experiment=official policy={policy}" for policy in POLICIES[1:3]),  # one of each architecture
    "experiment=paper_lora_1gpu",
)
STAGES = ["0/evaluation", "1/challenger", "1/questions", "1/solver", "1/evaluation"]


@pytest.mark.slow
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_of_the_paper_runs_a_round(experiment: str, tmp_path: Path) -> None:
    selfplay = dry_run(experiment.split(), tmp_path)
    assert list(selfplay.stages.ledger.stages) == STAGES
    model_type = AutoConfig.from_pretrained(tmp_path / "model").model_type
    assert model_type == ("llama" if "octothinker" in experiment else "qwen3")
    assert holds_adapters(tmp_path / "iteration_1" / "solver") == ("lora" in experiment)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    for role in ("challenger", "solver"):
        [step] = [row for row in rows if f"{role}/reward" in row]
        assert math.isfinite(step[f"{role}/loss"])
        assert step[f"{role}/sampling/sampling_logp_difference/max"] < 1e-4, "engine and trainer are the same policy"
    [solver] = [row for row in rows if "solver/reward" in row]
    assert solver["solver/reward_std"] > 0
    assert solver["solver/grad_norm"] > 0
    [questions] = [row for row in rows if "curriculum/kept" in row]
    assert questions["curriculum/kept"] == questions["curriculum/candidates"], "half of the votes agree"


def test_a_dry_run_ends_in_a_report_and_may_be_changed(tmp_path: Path) -> None:
    changes = ["solver_reward@solver.reward=official", "solver.settings.chunk_tokens=7"]
    dry_run(["experiment=paper", *changes], tmp_path)
    assert write_report([tmp_path], output=tmp_path).is_file()


def test_the_script_splits_votes_in_half() -> None:
    script = replies(Prompt(user="pose"))
    assert "What is 4 + 6?" in script(Prompt(user="pose"), 1, 2)
    answers = [script(Prompt(user="What is 4 + 6?"), 0, sample) for sample in range(4)]
    assert answers == ["\\boxed{7}", "\\boxed{101}", "\\boxed{7}", "\\boxed{103}"]


def test_wrong_experiments_are_one_message(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["experiment=papers"]) == 2
    assert "papers" in capsys.readouterr().err
    assert main(["policy=micro"]) == 2
    assert "has no `architecture`" in capsys.readouterr().err
