"""Every choice that the configuration offers composes and builds; the presets hold the numbers they promise."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from experiments import PROJECT, composition
from experiments.recipe import recipe
from rzero.collapse import Limit, roll_back, stop, warn
from rzero.rewards import OfficialChallengerReward, PaperChallengerReward
from rzero.selfplay import SelfPlay
from tests.experiments.small import config


def options(group: str) -> list[str]:
    names = (path.stem for path in (PROJECT / "conf" / group).glob("*.yaml"))
    return sorted(name for name in names if not name.startswith("_"))


def built(directory: Path, *overrides: str) -> SelfPlay:
    """Everything a run needs, from the configuration, without weights."""
    return composition.build(config("grader=exact", "benchmarks=micro", *overrides), directory)


CHOICES = [
    *(f"{group}={name}" for group in ("challenger", "curriculum", "solver", "engine") for name in options(group)),
    *(f"loss@solver.loss={name}" for name in options("loss")),
    *(f"label@solver.label={name}" for name in options("label")),
    *(f"{group}={name}" for group in ("roles", "variant") for name in options(group)),
    *(f"challenger_reward@challenger.reward={name}" for name in options("challenger_reward")),
    *(f"solver_reward@solver.reward={name}" for name in options("solver_reward")),
    *(f"advantage@solver.settings.advantage={name}" for name in options("advantage")),
    "curriculum/rule=closed",
]


CONTROLS_THAT_SEE_ANSWERS = {
    "label@solver.label=gold_control",
    "curriculum=labelled_control",
    "variant=gold_reward",
    "variant=labelled",
}


def answers_reach_training(cfg: DictConfig) -> bool:
    """Whether a configuration names the package that knows true answers where it is not only measured with."""

    def names(node: object) -> Iterator[str]:
        entries = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
        for value in entries:
            if isinstance(value, str):
                yield value
            yield from names(value)

    data = OmegaConf.to_container(cfg, resolve=False)
    assert isinstance(data, dict)
    return any(name.startswith("evaluation.") for name in names({**data, "benchmarks": {}, "audit": {}}))


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_builds_and_only_named_controls_let_true_answers_reach_training(
    choice: str, tmp_path: Path
) -> None:
    cfg = config("grader=exact", "benchmarks=micro", *choice.split())
    assert answers_reach_training(cfg) == (choice in CONTROLS_THAT_SEE_ANSWERS)
    selfplay = composition.build(cfg, tmp_path)
    selfplay.challenger.reward(0)
    selfplay.solver.reward(0)
    selfplay.close()


@pytest.mark.parametrize("experiment", options("experiment"))
def test_every_experiment_composes_without_true_answers(experiment: str, tmp_path: Path) -> None:
    cfg = config("grader=exact", "benchmarks=micro", f"experiment={experiment}")
    assert not answers_reach_training(cfg)
    selfplay = composition.build(cfg, tmp_path)
    assert selfplay.iterations >= 1
    selfplay.close()


@pytest.mark.parametrize("name", options("collapse"))
def test_every_answer_to_collapse_builds_with_its_limits(name: str, tmp_path: Path) -> None:
    selfplay = built(tmp_path, f"collapse={name}")
    assert selfplay.stages.collapse.act is {"warn": warn, "stop": stop, "rollback": roll_back}[name]
    assert all(isinstance(limit, Limit) for limit in selfplay.stages.collapse.limits.values())
    said: list[str] = []
    selfplay.stages.collapse.act = warn
    for _ in range(3):
        selfplay.stages.collapse.look({"solver/kl": 100.0}, say=said.append)
    assert len(said) == 1
    selfplay.close()


@pytest.mark.parametrize("sweep", sorted(path.stem for path in (PROJECT / "sweeps").glob("*.yaml")))
def test_every_sweep_names_keys_that_exist(sweep: str) -> None:
    """Each value of each parameter composes."""
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(config_dir=str(PROJECT / "conf"), version_base="1.3"):
        node = compose("config", overrides=[f"sweeps={sweep}"], return_hydra_config=True).hydra
    assert node.mode.name == "MULTIRUN"
    for key, values in node.sweeper.params.items():
        for value in str(values).split(","):
            config(f"{key}={value}")


def test_variants_are_the_micro_experiments_of_the_same_name() -> None:
    """Results that were kept under one are results of the other."""
    for experiment, variant in (
        ("micro_untrained_challenger", "untrained_challenger"),
        ("micro_random_reward", "random_reward"),
        ("micro_format_reward", "format_reward"),
    ):
        assert recipe(config(f"experiment={experiment}")) == recipe(config(f"variant={variant}"))


def test_the_paper_preset_holds_the_papers_numbers(tmp_path: Path) -> None:
    paper = built(tmp_path, "challenger=paper", "curriculum=paper", "solver=paper")
    assert (paper.challenger.settings.steps, paper.solver.settings.steps) == (5, 15)
    assert paper.challenger.settings.prompts_per_step * paper.challenger.settings.samples_per_prompt == 2048
    assert (paper.solver.settings.prompts_per_step, paper.solver.settings.samples_per_prompt) == (512, 5)
    assert (paper.challenger.polling.votes, paper.curriculum.polling.votes) == (10, 10)
    assert paper.curriculum.candidates == 8000
    assert paper.curriculum.rule.band(0.75) is None
    assert paper.curriculum.rule.band(0.8) is not None
    assert isinstance(paper.challenger.reward(0), PaperChallengerReward)
    assert (paper.solver.loss.clip_low, paper.solver.loss.clip_high, paper.solver.loss.dual_clip) == (0.2, 0.3, None)
    assert paper.solver.loss.kl_coefficient == 0.01
    paper.close()


def test_the_official_preset_holds_the_authors_numbers(tmp_path: Path) -> None:
    official = built(tmp_path, "challenger=official", "curriculum=official", "solver=official")
    assert official.curriculum.polling.votes == 9
    assert official.curriculum.rule.band(0.8) is None
    assert official.curriculum.rule.band(0.25) is not None
    assert isinstance(official.challenger.reward(0), OfficialChallengerReward)
    assert official.solver.loss.dual_clip == 3.0
    assert official.challenger.loss.aggregation.size == 2
    assert official.challenger.settings.updates_per_rollout == 32
    official.close()


@pytest.mark.parametrize("engine", options("engine"))
@pytest.mark.parametrize("experiment", options("experiment"))
def test_every_experiment_composes_with_every_engine(experiment: str, engine: str) -> None:
    """An experiment that sets a key which only one engine knows would fail when that engine is built."""
    cfg = config(f"experiment={experiment}", f"engine={engine}")
    assert set(cfg.engine) == set(config(f"engine={engine}").engine)
