"""The study of what keeps self-play rising: every arm composes and builds, and a run is kept as a few kilobytes."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from evaluation.metrics import Scores
from experiments import composition, evaluate
from experiments.provenance import write_manifest
from experiments.reproduce.past_collapse import __main__ as command
from experiments.reproduce.past_collapse import keeping
from experiments.reproduce.past_collapse.arms import (
    CONFIRM,
    MORE_VOTES,
    PARTS,
    SCREEN,
    TREATMENTS,
    TWENTY,
    WINNER,
    combined,
    parts_of,
    without,
)
from rzero.runs.directory import RunDirectory
from tests.experiments.small import SHRUNK, config, small_run


@pytest.mark.parametrize("treatment", TREATMENTS)
def test_every_arm_builds_with_the_budget_and_the_votes_of_r_zero(treatment: str, tmp_path: Path) -> None:
    cfg, usual = (keeping.store_of(SCREEN).config(SCREEN.arm(name), 10) for name in (treatment, "rzero"))
    composition.build(cfg, tmp_path).close()
    for key in ("challenger.settings", "challenger.polling", "solver.settings", "curriculum.votes"):
        if treatment != "labelled":  # it has no Challenger
            assert without_dropout(cfg, key) == without_dropout(usual, key), key


def without_dropout(cfg: DictConfig, key: str) -> object:
    """What lies at a key; a Challenger that does without some words poses as many questions as ever."""
    found = OmegaConf.to_container(OmegaConf.create({"found": OmegaConf.select(cfg, key)}))
    assert isinstance(found, dict)
    settings = found["found"]
    if key == "challenger.settings":
        settings["sampling"].pop("vocabulary_dropout", None)
    return settings


def test_the_parts_keep_choosing_and_proving_apart() -> None:
    assert (SCREEN.split, min(SCREEN.seeds) >= 10) == ("dev", True)
    for part in PARTS.values():
        assert part.split == "dev" or not set(part.seeds) & set(SCREEN.seeds)
        assert set(part.treatments) <= {*TREATMENTS, MORE_VOTES}
        assert {"rzero", WINNER} <= set(part.treatments) or part == TWENTY
    assert (CONFIRM.split, CONFIRM.seeds) == ("test", tuple(range(10)))
    assert 1 <= len(without(WINNER)) <= 4


def test_the_winner_without_a_part_lacks_that_part_alone() -> None:
    whole = set(combined("coverage", "anchored", "replay"))
    assert without("coverage_anchored_replay") == {
        "without_coverage": combined("anchored", "replay"),
        "without_anchored": combined("coverage", "replay"),
        "without_replay": combined("coverage", "anchored"),
    }
    assert whole - set(combined("anchored", "replay")) == {"challenger_reward@challenger.reward=coverage"}
    assert without("replay") == {}


def test_more_votes_are_as_many_as_the_winners_anchors_cast() -> None:
    """Three anchors of five votes; none in round 1, one in round 2, two in round 3: 120 in ten rounds, 12 a round."""
    assert "anchored" in parts_of(WINNER)
    assert "curriculum.votes=22" in CONFIRM.arm(MORE_VOTES).overrides


@pytest.mark.parametrize("chosen", [("experiment=sustained",), ("variant=sustained",)])
def test_the_preset_is_the_winner(chosen: tuple[str, ...]) -> None:
    preset, arm = config(*chosen), keeping.store_of(CONFIRM).config(CONFIRM.arm(WINNER), 0)
    for key in ("curriculum", "challenger.reward", "roles", "signals", "solver.reward"):
        assert OmegaConf.select(preset, key) == OmegaConf.select(arm, key), key


@pytest.mark.parametrize("chosen", [("scale=small_lm", "prompts=base_model"), ("scale=micro",)])
def test_the_preset_builds_on_any_model(chosen: tuple[str, ...], tmp_path: Path) -> None:
    cfg = config("experiment=sustained", "policy=qwen3_4b_base", "audit=none", *chosen)
    selfplay = composition.build(cfg, tmp_path)
    assert selfplay.curriculum.anchors is not None
    assert selfplay.signals is not None
    selfplay.close()


SHORT = replace(SCREEN, rounds=1)


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a shrunk run that was kept, beside the root of the store."""
    monkeypatch.setattr(keeping, "ROOT", tmp_path / "store")
    monkeypatch.setattr(keeping, "WORK", tmp_path / "work")
    monkeypatch.setattr(keeping, "HARD_OF", ())
    part, arm = SHORT, SHORT.arm("rzero")
    monkeypatch.setattr(command, "PARTS", {"screen": part})
    store = keeping.store_of(part)
    directory, folder = store.directory(arm, 10), store.folder(arm, 10)
    directory.parent.mkdir(parents=True)
    selfplay = small_run(directory, *arm.overrides, *SHRUNK, "iterations=1", "seed=10")
    selfplay.run()
    selfplay.close()
    RunDirectory(directory).config.write_text(OmegaConf.to_yaml(store.config(arm, 10)), encoding="utf-8")
    for finished in (False, True):
        write_manifest(directory, config("seed=10"), finished=finished)

    def in_process(module: str, *arguments: str) -> None:
        assert module == "experiments.evaluate"
        smaller = "benchmarks.source.source.items=8", "benchmarks.protocol.k=1", "benchmarks.protocol.max_tokens=32"
        assert evaluate.main([*arguments, *smaller, "grader=exact"]) == 0

    monkeypatch.setattr(keeping, "command", in_process)
    keeping.ask_harder(directory, part)
    keeping.keep(directory, folder)
    return folder


def test_a_run_is_kept_as_a_few_kilobytes_that_hold_what_was_measured(
    kept: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sum(path.stat().st_size for path in kept.iterdir()) <= 20 * 1024
    assert not keeping.lacks(SHORT, "rzero", 10)
    assert "there is no result.json.xz" in keeping.lacks(SHORT, "rzero", 11)
    run = keeping.load(SHORT, "rzero", 10)
    directory = RunDirectory(keeping.store_of(SHORT).directory(SHORT.arm("rzero"), 10))
    measured = [Scores.from_json(OmegaConf.to_container(OmegaConf.load(directory.scores(i)))) for i in range(2)]
    assert run.overall == pytest.approx([scores.overall for scores in measured], abs=1e-4)
    [(greedy, sampled), *_] = run.items[1]["sum"]
    assert (greedy in (0.0, 1.0), 0.0 <= sampled <= 1.0) == (True, True)
    assert run.families[1]["sum"] == pytest.approx(50 * sum(map(sum, run.items[1]["sum"])) / 3, abs=1e-3)
    assert {"signals/cells", "audit/label_accuracy_kept", "audit/families"} <= run.rounds[1].keys()
    assert set(run.items) == {0, 1}
    assert set(run.hard) == {1}
    assert set(run.hard_levels[1]["sum"]) == {str(level) for level in range(9, 17)}
    assert command.main(["screen", "--arms", "rzero", "--seeds", "10"]) == 0
    assert "rzero" in capsys.readouterr().out
    assert command.main(["screen", "--arms", "rzero"]) == 1
    assert command.main(["screen", "--arms", "nonsense"]) == 2


def test_arms_that_are_missing_are_run_one_by_one_and_a_failure_keeps_no_other_back(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done: list[tuple[str, int]] = []

    def pretend(part: object, treatment: str, seed: int) -> Path:
        if treatment == "gold":
            raise RuntimeError("the power went out")
        done.append((treatment, seed))
        return Path("there")

    monkeypatch.setattr(command, "execute", pretend)
    monkeypatch.setattr(command, "lacks", functools.partial(lambda *_: "there is nothing"))
    assert command.main(["screen", "--run", "--arms", "gold", "replay", "--seeds", "10", "11"]) == 2
    assert done == [("replay", 10), ("replay", 11)]
    assert capsys.readouterr().err.count("the power went out") == 2


def test_a_part_names_its_arms_by_treatment() -> None:
    arm = replace(SCREEN, rounds=3).arm("replay")
    assert arm.folder == "replay"
    assert "iterations=3" in arm.overrides
    assert "curriculum/rule=replay" in arm.overrides
