"""Saved configurations are read in today's words: all kept runs, and runs that were begun before something moved."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra.utils import get_object
from omegaconf import OmegaConf

from experiments import composition
from experiments.recipe import NAMES, agrees, fingerprint, modern
from experiments.reproduce.command import studies
from experiments.results import ARMS
from experiments.run import resumed
from experiments.runs import STORE, WORK, Arm, Store, same_recipe
from tests.experiments.small import config

KEPT = sorted(folder.parent for folder in (STORE / "micro").glob("*/seed*/config.yaml"))


def arms() -> dict[str, Arm]:
    """Every arm of the micro scale that a study or a result asks for, by its folder."""
    offered = [arm for study in studies() if "micro" in study.models for _, _, arm in study.arms("micro")]
    return {arm.folder: arm for arm in (*offered, *ARMS["micro"].values())}


def test_every_kept_run_is_one_of_todays_recipe() -> None:
    store, known = Store(root=STORE / "micro", work=WORK / "micro"), arms()
    assert len(KEPT) == 36
    for folder in KEPT:
        assert store.has(known[folder.parent.name], int(folder.name.removeprefix("seed"))), folder
    assert {folder.parent.name for folder in KEPT} == known.keys()


@pytest.mark.parametrize("folder", KEPT[::3], ids=lambda folder: folder.parent.name)
def test_a_kept_run_is_of_no_other_arms_recipe(folder: Path) -> None:
    store, saved = Store(root=STORE / "micro", work=WORK / "micro"), folder / "config.yaml"
    agreeing = [name for name, arm in arms().items() if same_recipe(saved, store.config(arm, 0))]
    assert agreeing == [folder.parent.name]


def test_names_of_the_table_lead_to_what_there_is() -> None:
    for new in NAMES.values():
        assert get_object(new)
        assert new not in NAMES, "one step, not a chain"


def test_a_configuration_of_today_is_read_as_it_is() -> None:
    for overrides in ([], ["experiment=official", "solver_reward@solver.reward=soft_vote"], ["engine=vllm_server"]):
        cfg = config(*overrides)
        assert modern(cfg) == cfg
        assert fingerprint(modern(cfg)) == fingerprint(cfg)


def test_old_names_and_shapes_are_todays() -> None:
    saved = config("engine=vllm_server", "solver_reward@solver.reward=soft_vote")
    today = OmegaConf.create(OmegaConf.to_yaml(saved))
    OmegaConf.set_struct(saved, False)
    saved.solver.reward.group_size = 5
    saved.engine.host._target_ = "rzero.engines.fleet.Fleet"
    saved.engine.host.patience = saved.engine.host.pop("timeouts")
    saved.engine.host.patience._target_ = "rzero.engines.replica.Patience"
    del saved.engine.host.transfer
    assert modern(saved) == today
    assert agrees(saved, today, default=config())


def test_what_is_only_said_is_no_part_of_a_recipe_and_what_is_done_about_it_is() -> None:
    saved, today = config(), config()
    OmegaConf.set_struct(saved, False)
    del saved.collapse.alarm
    saved.collapse.limits.agreement = {"_target_": "rzero.collapse.Limit", "metric": "curriculum/agreement", "low": 0.1}
    assert agrees(saved, today, default=today)
    assert fingerprint(saved) == fingerprint(today)
    assert not agrees(saved, config("collapse=stop"), default=today)
    saved.collapse.act.path = "rzero.collapse.stop"
    assert not agrees(saved, today, default=today)
    assert not agrees(saved, config("collapse=stop"), default=today)


def test_a_run_that_was_begun_with_old_names_goes_on_or_is_refused_in_one_line(tmp_path: Path) -> None:
    saved = config("solver_reward@solver.reward=soft_vote", "grader=exact")
    OmegaConf.set_struct(saved, False)
    saved.solver.reward.group_size = 8
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(saved))
    cfg, _ = resumed(OmegaConf.create({"resume": str(tmp_path)}), [])
    composition.build(cfg, tmp_path).close()
    saved.solver.settings.overlong = {"_target_": "rzero.modules.OverlongPenalty", "buffer_tokens": 32}
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(saved))
    (tmp_path / "state.json").unlink(missing_ok=True)
    cfg, _ = resumed(OmegaConf.create({"resume": str(tmp_path)}), [])
    with pytest.raises(ValueError, match=r"^solver\.settings\.overlong\.buffer_tokens: .* takes no buffer_tokens"):
        composition.build(cfg, tmp_path)
