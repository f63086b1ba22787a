"""What people write on the command line: old spellings, keys that are not there, and combinations that once failed."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra.errors import HydraException

from experiments import composition
from experiments.compose import compose
from experiments.overrides import ELSEWHERE, GONE, MOVED, one_line, refuse_old
from rzero.curriculum import Deduplicated, Quantile, Replay, Stratified
from rzero.rewards import MemoryPenalty
from rzero.selfplay import SelfPlay
from tests.experiments.small import config
from tests.experiments.test_choices import options


def built(directory: Path, *overrides: str) -> SelfPlay:
    selfplay = composition.build(config("grader=exact", *overrides), directory)
    selfplay.close()
    return selfplay


def example(override: str) -> str:
    """An override of the table with an option, a value or a key with its value in place of `*`."""
    group = override.partition("@")[0].partition("=")[0]
    keys = {"engine.host.timeouts.*": "start_s=1", "benchmarks.source.source.*": "items=1"}
    return override.replace("*", options(group)[0] if options(group) else keys.get(override, "1"))


@pytest.mark.parametrize("old", MOVED)
def test_an_old_spelling_is_refused_with_one_that_composes(old: str) -> None:
    new = MOVED[old]
    pair = (
        (old, new)
        if "*" not in old
        else tuple(text.replace("*", example(new).removeprefix(new[:-1])) for text in (old, new))
    )
    with pytest.raises(ValueError, match="is now") as refusal:
        compose(pair[0])
    assert str(refusal.value) == f"{pair[0]} is now {pair[1]}"
    config(*pair[1].split(), *(["engine=vllm_server"] if "host" in new else []))


def test_old_spellings_are_found_in_sweeps_and_behind_a_plus() -> None:
    with pytest.raises(ValueError, match=r"^curriculum=dedup is now curriculum/rule=dedup$"):
        refuse_old(["seed=0,1", "curriculum=paper,dedup"])
    with pytest.raises(ValueError, match=r"is now overlong@solver\.settings=dapo$"):
        refuse_old(["+overlong@solver.settings.overlong=dapo"])
    refuse_old(["curriculum=paper,official", "-m", "+challenger.reward.x=1", "challenger=official"])


@pytest.mark.parametrize("key", [*GONE, *ELSEWHERE])
def test_what_is_gone_or_belongs_to_another_command_is_said(key: str) -> None:
    with pytest.raises(ValueError, match=rf"^{key}=1: .*({GONE.get(key)}|{ELSEWHERE.get(key)})"):
        refuse_old([f"{key}=1"])
    refuse_old(["hardware=h100"], allowed=["hardware"])


def test_a_key_that_is_not_there_is_one_line_with_those_that_are() -> None:
    with pytest.raises(HydraException) as missing:
        config("curriculum.rule.band.low=0.3")
    assert one_line(missing.value) == (
        "there is no key curriculum.rule.band.low; curriculum.rule.band has centre, half_width"
    )
    with pytest.raises(HydraException) as missing:
        config("challenger=quick")
    assert one_line(missing.value).endswith("Available options in 'challenger': official paper")


@pytest.mark.parametrize(
    ("rule", "kind"), [("quantile", Quantile), ("dedup", Deduplicated), ("stratified", Stratified), ("replay", Replay)]
)
def test_a_rule_leaves_the_size_of_a_curriculum_alone_and_wins_over_a_variant(
    rule: str, kind: type, tmp_path: Path
) -> None:
    curriculum = built(tmp_path, "variant=no_filtering", f"curriculum/rule={rule}").curriculum
    assert curriculum.candidates == 768
    assert isinstance(curriculum.rule, kind)


def test_a_reward_that_wraps_another_goes_with_every_variant(tmp_path: Path) -> None:
    memory = "challenger_reward@challenger.reward=memory"
    assert isinstance(built(tmp_path, "variant=no_repetition", memory).challenger.reward(0), MemoryPenalty)


def test_the_authors_method_on_the_micro_run_keeps_its_size(tmp_path: Path) -> None:
    run = built(tmp_path, "challenger=official", "curriculum=official", "solver=official")
    assert run.solver.loss.dual_clip == 3.0
    assert (run.solver.settings.prompts_per_step, run.curriculum.candidates) == (48, 768)
    assert run.challenger.settings.sampling["max_tokens"] == 160


def test_the_buffer_of_an_overlong_penalty_follows_the_limit(tmp_path: Path) -> None:
    penalty = built(tmp_path, "overlong@solver.settings=dapo").solver.settings.overlong
    assert penalty is not None
    assert penalty.buffer_tokens(160) == 32


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["+challenger.reward.bonus=1"], "challenger.reward.bonus: rzero.rewards.PaperChallengerReward takes no bonus"),
        (
            ["+solver.reward.bonus=1"],
            "solver.reward.bonus: rzero.rewards.PaperSolverReward takes no bonus, only grader",
        ),
        (["+curriculum.rule.band.low=0.1"], "curriculum.rule.band.low: rzero.curriculum.CentredBand takes no low"),
        (["+policy.quantised=true"], "policy.quantised: rzero.policy.load_policy takes no quantised"),
        (["+engine.host=here"], "engine.host: rzero.engines.embedded.EmbeddedEngine takes no host"),
        (["+trainer.devises=2"], "trainer.devises: lightning.pytorch.Trainer takes no devises"),
        (
            ["challenger.reward.repetition_weight=many"],
            "challenger.reward.repetition_weight must be a number, got 'many'",
        ),
        (["solver.optimizer.lr=-1"], "solver.optimizer: Invalid learning rate: -1"),
        (["challenger.reward._target_=my.own"], "challenger.reward._target_: my.own cannot be imported"),
        (["~solver.settings.steps"], "solver.settings: "),
        (
            ["overlong@solver.settings=dapo", "response_tokens=2"],
            "solver.settings: overlong.buffer_share 0.2 of 2 tokens",
        ),
        (
            ["challenger_reward@challenger.reward=memory", "+challenger.reward.reward.bonus=1"],
            "challenger.reward.reward.bonus: rzero.rewards.PaperChallengerReward takes no bonus",
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_a_part_does_not_take_fails_when_the_run_is_built(
    overrides: list[str], words: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"^\S") as refusal:
        built(tmp_path, *overrides)
    assert str(refusal.value).startswith(words)
    assert "\n" not in str(refusal.value)
