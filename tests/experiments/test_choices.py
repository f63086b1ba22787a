"""Every pair of choices that the configuration offers composes and builds; presets hold the numbers they promise."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import product
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from experiments import PROJECT, composition
from rzero.collapse import Limit, roll_back, stop, warn
from rzero.rewards import OfficialChallengerReward, PaperChallengerReward
from rzero.selfplay import SelfPlay
from rzero.types import Question
from tests.experiments.covering import Row, covering
from tests.experiments.small import config


def options(group: str) -> list[str]:
    names = (path.stem for path in (PROJECT / "conf" / group).glob("*.yaml"))
    return sorted(name for name in names if not name.startswith("_"))


def built(directory: Path, *overrides: str) -> SelfPlay:
    """Everything a run needs, from the configuration, without weights."""
    return composition.build(config("grader=exact", "benchmarks=micro", *overrides), directory)


AS_IT_IS = ""
"""Option of every slot: whatever defaults, experiment and variant say."""

NOT_PAIRED = {
    "benchmarks": "their data sets lie elsewhere",
    "sweeps": "multiruns of the others",
    "vocabulary": "only some engines know of it",
}
NEEDS_AN_ACCOUNT = ("tracker", "wandb")


@cache
def slots() -> dict[str, list[str]]:
    """Every slot of the composed defaults list with its options."""
    with initialize_config_dir(config_dir=str(PROJECT / "conf"), version_base="1.3"):
        chosen = compose("config", return_hydra_config=True).hydra.runtime.choices
    names = [name for name in chosen if not name.startswith("hydra") and name not in NOT_PAIRED]
    return {
        name: [AS_IT_IS, *(found for found in options(name.partition("@")[0]) if (name, found) != NEEDS_AN_ACCOUNT)]
        for name in names
    }


def spelled(cells: Row) -> list[str]:
    return [f"{slot}={option}" for slot, option in cells.items() if option != AS_IT_IS]


def paired(row: Row) -> DictConfig:
    """The composed choices, for which the benchmarks need no data set and any policy a place."""
    cfg = config("benchmarks=micro", "policy.path_or_id=/some/model", *spelled(row))
    cfg.benchmarks = {"_target_": f"{__name__}.nothing_measured", "_partial_": True}
    return cfg


def nothing_measured(**_: object) -> None:
    """The benchmarks of choices that are only built."""


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


def is_a_control_that_sees_answers(row: Row) -> bool:
    """A choice of its own wins over a variant's."""
    label = row["label@solver.label"] or {"gold_reward": "gold_control"}.get(row["variant"])
    rule = row["curriculum/rule"] or {"labelled": "labelled_control"}.get(row["variant"])
    return label == "gold_control" or rule == "labelled_control"


@cache
def rows() -> list[Row]:
    return covering(slots())


PARTS = 10
"""Tests that share the rows, so that several processes can have some each."""


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_every_pair_of_choices_builds_and_only_named_controls_let_true_answers_reach_training(
    part: int, tmp_path: Path
) -> None:
    """Up to policy, engine and trainer: no weights are loaded, no engine draws."""
    for number, row in enumerate(rows()[part::PARTS]):
        cfg = paired(row)
        assert answers_reach_training(cfg) == is_a_control_that_sees_answers(row), spelled(row)
        selfplay = composition.build(cfg, tmp_path / str(number))
        selfplay.make_engine().close()
        instantiate(cfg.trainer)
        selfplay.close()


def test_the_rows_hold_every_pair() -> None:
    held = {frozenset(pair) for row in rows() for pair in product(row.items(), row.items())}
    cells = [(slot, option) for slot, names in slots().items() for option in names]
    wanted = {frozenset((one, other)) for one, other in product(cells, cells) if one[0] != other[0]}
    assert wanted <= held
    assert 100 < len(rows()) < 400


def test_a_correction_without_weights_for_its_sampling_is_refused_when_the_run_is_built(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^solver\.loss: mismatch correction knows no weights under top_k[^\n]*$"):
        built(tmp_path, "engine=embedded_int8", "solver.settings.sampling.top_k=40")


def test_a_loss_with_kl_that_learns_from_every_completion_is_refused_where_some_are_left_out(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"^solver\.loss: settings\.skip_zero_advantages needs kl_coefficient=0[^\n]*$"
    ):
        built(tmp_path, "experiment=micro", "solver.settings.skip_zero_advantages=true")


@pytest.mark.parametrize("role", ["challenger", "solver"])
def test_rounded_rollouts_are_corrected_unless_somebody_says_otherwise(role: str) -> None:
    truncated = OmegaConf.load(PROJECT / "conf" / "mismatch" / "truncated.yaml").mismatch
    for chosen in ("engine=embedded_int8", "engine=embedded_auto", "experiment=qwen2_5_coder_0_5b"):
        assert config(chosen)[role].loss.mismatch == truncated
        assert config(chosen, f"loss@{role}.loss=gspo")[role].loss.mismatch == truncated
        assert config(chosen, f"mismatch@{role}.loss=none")[role].loss.mismatch is None
    for chosen in ("engine=embedded", "engine=vllm", "experiment=paper", "experiment=official"):
        assert config(chosen)[role].loss.mismatch is None


def test_a_run_without_signals_says_that_the_alarm_has_nothing_to_look_at(tmp_path: Path) -> None:
    for name, said in (("none", composition.UNSEEN), ("all", None)):
        selfplay = built(tmp_path / name, f"signals={name}")
        assert composition.unseen(selfplay) == said
        selfplay.close()


@pytest.mark.parametrize("engine", [name for name in options("engine") if name.startswith("vllm")])
def test_vocabulary_dropout_is_refused_where_the_engine_knows_nothing_of_it(tmp_path: Path, engine: str) -> None:
    with pytest.raises(ValueError, match=r"^challenger\.settings: [^\n]*needs engine=embedded, got [^\n]*$"):
        built(tmp_path, "vocabulary=dropout", f"engine={engine}")


def test_vocabulary_dropout_goes_with_every_policy_that_learns(tmp_path: Path) -> None:
    for number, other in enumerate(("experiment=qwen2_5_coder_0_5b", "roles=shared", "variant=sustained")):
        built(tmp_path / str(number), "policy.path_or_id=/some/model", "vocabulary=dropout", other).close()


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
    with initialize_config_dir(config_dir=str(PROJECT / "conf"), version_base="1.3"):
        node = compose("config", overrides=[f"sweeps={sweep}"], return_hydra_config=True).hydra
    assert node.mode.name == "MULTIRUN"
    for key, values in node.sweeper.params.items():
        for value in str(values).split(","):
            config(f"{key}={value}")


@pytest.mark.parametrize(
    ("experiment", "any_language"), [("micro", False), ("paper", False), ("official", False), ("smollm2_135m", True)]
)
def test_what_was_published_charges_the_published_repetition(
    experiment: str, any_language: bool, tmp_path: Path
) -> None:
    run = built(tmp_path, f"experiment={experiment}")
    questions = [Question(text="2+2?", answer="4")] * 4
    charged = [paid.parts["repetition"] for paid in run.challenger.reward(0)(questions, [None] * 4)]
    assert charged == [1.0 if any_language else 0.25] * 4
    run.close()


def test_the_paper_preset_holds_the_papers_numbers(tmp_path: Path) -> None:
    paper = built(tmp_path, "experiment=paper")
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
    official = built(tmp_path, "experiment=official")
    assert official.curriculum.polling.votes == 9
    assert official.curriculum.rule.band(0.8) is None
    assert official.curriculum.rule.band(0.25) is not None
    assert isinstance(official.challenger.reward(0), OfficialChallengerReward)
    assert official.solver.loss.dual_clip == 3.0
    assert official.challenger.loss.aggregation.size == 2
    assert official.challenger.settings.updates_per_rollout == 32
    for phase in (official.challenger, official.solver):
        assert phase.settings.advantage.keywords["equal_within"] == 0.0, "as recorded: the very same number"
    official.close()


@pytest.mark.parametrize("policy", ["micro_small", "qwen3_8b_base", "/a/b/Own"])
@pytest.mark.parametrize("preset", ["paper", "official"])
def test_a_preset_takes_any_policy_and_is_named_after_it(preset: str, policy: str) -> None:
    chosen = ["policy=hf", f"policy.path_or_id={policy}"] if "/" in policy else [f"policy={policy}"]
    own, default = config(f"experiment={preset}", *chosen), config(f"experiment={preset}")
    assert own.name == f"{preset}_{own.policy.path_or_id.rpartition('/')[2]}"
    assert default.name == f"{preset}_Qwen3-4B-Base"
    for key in own.keys() - {"policy", "name"}:
        assert own[key] == default[key]


def test_the_embedded_engine_draws_where_the_trainer_trains() -> None:
    """A frozen Solver lies in host memory; drawn from there, ten of eleven completions of a step came from one core."""
    assert config("trainer=gpu").engine.device == "cuda"
    assert config().engine.device is None
