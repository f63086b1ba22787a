"""The study of half a billion parameters: its protocol, its figures with gaps, the pages that show them."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from evaluation.metrics import Scores, gain, mean_gain
from experiments import PROJECT, readme, results
from experiments.reproduce.half_billion import figures, study
from experiments.reproduce.seeded import SeededStudy
from experiments.runs import STORE, load
from tests.experiments.invented_study import scores

SEEDS = [0, 1, 2]


def evaluated(monkeypatch: pytest.MonkeyPatch, found: Scores) -> list[tuple[str, ...]]:
    """Let evaluations write these scores; return the list of what they are asked."""
    calls: list[tuple[str, ...]] = []

    def pretend(module: str, *arguments: str) -> None:
        calls.append((module, *arguments))
        [place] = [argument.removeprefix("directory=") for argument in arguments if argument.startswith("directory=")]
        path = Path(place) / "scores" / "gsm8k.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"scores": found.to_json()}))
        before = path.with_name("of_another_temperature.json")
        before.write_text("{}")
        os.utime(before, (0, 0))

    monkeypatch.setattr(study, "command", pretend)
    return calls


def test_every_arm_is_the_protocol_of_the_log() -> None:
    runs = list(study.STUDY.runs())
    assert runs[:3] == [("rzero", 0), ("untrained_challenger", 0), ("random_reward", 0)]
    assert len(runs) == 7
    for name, _ in runs[:3]:
        cfg = study.STUDY.config(name, 0)
        assert cfg.iterations == 2
        assert OmegaConf.to_container(cfg.benchmarks.source.rows) == {"gsm8k": [0, 200], "math500": [0, 100]}
        asking = cfg.benchmarks.protocol
        assert (asking.k, asking.temperature, asking.max_tokens, asking.truncated) == (4, 1.0, 512, "wrong")
        assert (cfg.challenger.settings.steps == 0) == (name == "untrained_challenger")
    rewards = [study.STUDY.config(name, 0).solver.reward["_target_"] for name in ("rzero", "random_reward")]
    assert rewards[0] != rewards[1]


def test_the_figures_are_those_of_gsm8k_with_every_key_of_micro(
    made_up: SeededStudy, capsys: pytest.CaptureFixture[str]
) -> None:
    assert results.main(["qwen2_5_coder_0_5b", "--seeds", "0", "1", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    micro = {arm: [load(STORE / "micro" / recipe.folder / "seed0", 0)] for arm, recipe in results.ARMS["micro"].items()}
    assert results.summary(micro).keys() <= found.keys()
    pairs = [(study.only(run.scores[0], "gsm8k"), study.only(run.scores[2], "gsm8k")) for run in made_up.kept("rzero")]
    gains = [after.overall - before.overall for before, after in pairs]
    assert found["mean_gain"] == pytest.approx(sum(gains) / 3)
    assert found["min_gain"] == pytest.approx(min(gains))
    assert found["interval"] == pytest.approx([mean_gain(pairs).low, mean_gain(pairs).high])
    assert found["gain_among_well_formed"] + found["gain_format"] == pytest.approx(found["mean_gain"])
    assert found["control_seeds"] == {"untrained Challenger": [0, 1, 2], "random reward": [0]}
    assert found["controls"]["random reward"] < 0 < found["controls"]["untrained Challenger"] < found["mean_gain"]
    assert found["transfer"]["gain"] > 0
    assert (found["worked_examples"], found["label_accuracy_second_opinion"]) == (2, None)
    assert results.main(["qwen2_5_coder_0_5b", "--run"]) == 2


def test_what_needs_a_missing_run_is_null_and_nothing_is_started(
    made_up: SeededStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        pytest.fail("a run was started")

    monkeypatch.setattr(SeededStudy, "execute", refuse)
    part = replace(made_up, root=tmp_path)
    for name, seed in (("rzero", 0), ("rzero", 1), ("random_reward", 0)):
        shutil.copytree(made_up.folder(name, seed), part.folder(name, seed))
    monkeypatch.setattr(figures, "STUDY", part)
    assert results.main(["qwen2_5_coder_0_5b", "--json"]) == 1
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert [found[key] for key in ("mean_gain", "min_gain", "interval", "math500", "rounds")] == [None] * 5
    assert found["controls"]["untrained Challenger"] is None
    assert found["controls"]["random reward"] < 0
    assert found["seeds"] == [0, 1]
    assert "4 runs are missing; python -m experiments.reproduce.half_billion --run starts what is missing" in said.err
    with pytest.raises(ValueError, match="name those that are"):
        figures.write(figures.kept(SEEDS), found)
    shutil.copytree(made_up.folder("untrained_challenger", 1), part.folder("untrained_challenger", 1))
    found = figures.figures(figures.kept([0, 1]), [0, 1])
    assert found["controls"]["untrained Challenger"] is None, "the command must not show a mean over other seeds"
    assert "| R-Zero | 0, 1 |" in figures.row(found)
    assert "| untrained Challenger | 1 |" in figures.row(found), "a row says its seeds"
    assert results.main(["qwen2_5_coder_0_5b", "--json", "--seeds", "7"]) == 0
    assert json.loads(capsys.readouterr().out)["wall_minutes"] is None


def test_the_base_drawn_colder_is_asked_once_and_stands_beside_the_runs(
    made_up: SeededStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = replace(made_up, work=tmp_path, machine=("threads=1",))
    colder = study.only(scores(0.3), "gsm8k")
    assert study.colder_base(there, 0.6) is None
    calls = evaluated(monkeypatch, colder)
    there.beside(there)
    there.beside(there)
    for call, temperature in zip(calls, (0.6, 0.1), strict=True):
        asked = f"benchmarks.protocol.temperature={temperature}"
        assert {asked, "benchmarks.tasks=[gsm8k]", "threads=1"} <= set(call)
        assert study.colder_base(there, temperature) == colder
    runs = figures.kept(SEEDS)
    found = figures.figures(runs, SEEDS)
    gained = colder.overall - found["overall"]["R-Zero"][0][0]
    assert "| R-Zero | 0, 1, 2 |" in figures.row(found)
    assert "| random reward | 0 |" in figures.row(found)
    for base, temperature in zip(found["colder_base"], (0.6, 0.1), strict=True):
        assert base["overall"] == pytest.approx(colder.overall)
        title = f"| no training, drawn at T = {temperature} |"
        line = f"{title}  | {colder.overall - gained:.1f} | {colder.overall:.1f} | {gained:+.1f} |"
        assert (line in figures.row(found)) is (temperature == 0.6)
        assert f"{title}  | {colder.overall:.1f} |" in figures.page(runs, found)
        (there.root / there.name / f"base_at_{temperature}.json.xz").unlink()


def test_one_answer_to_each_item_scatters_as_its_samples_say(
    made_up: SeededStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two items, one always right, the other in one of four samples: a variance of 3/16 x 4/3 over two items."""
    colder = study.only(scores(0.3), "gsm8k")
    [items] = colder.benchmarks
    two = tuple(replace(items.outcomes[0], sampled=share) for share in (1.0, 0.25))
    asked = replace(colder, benchmarks=(replace(items, outcomes=two),), k=4)
    monkeypatch.setattr(figures, "colder_base", lambda *_: asked)
    bases = list(figures._colder_bases())
    assert [base["one_pass_sd"] for base in bases] == pytest.approx([25.0, 25.0])
    assert "has 62.5 % on the mean of 4, not" in figures._scatter({"colder_base": bases})
    assert "deviation of 25.0 points" in figures._scatter({"colder_base": bases})
    assert figures._scatter({"colder_base": bases[:1]}) == ""


def test_pages_show_the_runs_that_are_kept_and_nothing_without(
    made_up: SeededStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = {name: tmp_path / f"{name}.md" for name in ("half_billion", "small_language_models")}
    for name, path in pages.items():
        path.write_text(f"a\n<!-- results:{name} (command) -->\n\n<!-- end of results:{name} -->\nb\n")
    monkeypatch.setattr(readme, "PAGES", pages)
    monkeypatch.setattr(figures, "FIGURE", PROJECT / "outputs" / "figure_of_a_test.png")
    monkeypatch.setattr(figures, "save", lambda draw, path: draw())
    runs = figures.kept(SEEDS)
    figures.write(runs, figures.figures(runs, SEEDS))
    row = pages["half_billion"].read_text()
    assert row.startswith("a\n<!-- results:half_billion (command) -->\n![GSM8K by iteration](outputs/")
    assert len(row.splitlines()) == 11, "what README.md has room for"
    page = pages["small_language_models"].read_text()
    for text in ("The Challenger's prompt holds 2 worked examples", "MATH-500", "reasoning-gym", "cut at the limit"):
        assert text in page
    for run in runs["rzero"]:
        assert f"| R-Zero | {run.seed} | {run.wall_minutes:.0f} | {run.peak_rss_gib:.1f} |" in page
    none: dict[str, list[Any]] = {name: [] for name in made_up.arms}
    figures.write(none, figures.figures(none, SEEDS))
    assert pages["half_billion"].read_text().count("\n") == 5


def test_the_pages_of_the_repository_are_those_of_the_kept_runs() -> None:
    seeds = [run.seed for run in figures.kept(SEEDS)["rzero"]]
    runs = figures.kept(seeds or SEEDS)
    found = figures.figures(runs, seeds or SEEDS)
    assert bool(readme.current("half_billion")) == bool(seeds)
    assert readme.current("half_billion").endswith(figures.row(found))
    assert readme.current("small_language_models") == figures.page(runs, found)


def test_what_nobody_trains_for_is_asked_with_the_threads_of_the_run(
    made_up: SeededStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked_for: list[str] = []
    monkeypatch.setattr(study, "ends", lambda directory, config, place, *overrides: asked_for.extend(overrides) or [])
    config = made_up.config("rzero", 0)
    config.threads, config.engine.threads = 1, 3
    assert study.transfer(Path("somewhere"), config) == []
    assert {"benchmarks=school_transfer", "threads=1", "engine.threads=3"} <= set(asked_for)


def test_a_mean_gain_is_over_runs_and_its_interval_over_items() -> None:
    before, after = study.only(scores(0.25), "gsm8k"), study.only(scores(0.35), "gsm8k")
    other = study.only(scores(0.30), "gsm8k")
    assert mean_gain([(before, after)]) == gain(before, after)
    both = mean_gain([(before, after), (before, other)])
    assert both.points == pytest.approx((gain(before, after).points + gain(before, other).points) / 2)
    assert both.among_well_formed + both.format == pytest.approx(both.points)
    with pytest.raises(ValueError, match="different items"):
        mean_gain([(before, after), (study.only(scores(0.2), "math500"), study.only(scores(0.3), "math500"))])
