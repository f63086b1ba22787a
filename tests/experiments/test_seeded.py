"""Studies whose arms have seeds of their own: composed, kept in 20 KB, tabulated with gaps, shown on pages."""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from evaluation.metrics import BenchmarkScore, Outcome, Scores, gain, mean_gain
from experiments import PROJECT, readme, results, runs
from experiments.reproduce import compact, rounded_rollouts, seeded
from experiments.reproduce.half_billion import __main__ as command
from experiments.reproduce.half_billion import figures, study
from experiments.reproduce.seeded import SeededStudy
from experiments.runs import STORE, load
from rzero.runs.bank import JsonlBank
from rzero.runs.directory import RunDirectory
from rzero.types import Json
from tests.experiments.runs import RunWriter

SEEDS = [0, 1, 2]


def outcomes(name: str, count: int, right: float, seed: int) -> BenchmarkScore:
    rng = random.Random(f"{name}/{seed}")
    luck = [rng.random() for _ in range(count)]
    items = (
        Outcome(
            id=f"{name}/test/{number}",
            level=0,
            greedy=value < right,
            greedy_boxed=value < 0.9,
            sampled=round(4 * min(1.0, max(0.0, right + 0.3 - value))) / 4,
            sampled_boxed=0.75,
            majority=value < right,
            any_right=value < right + 0.3,
        )
        for number, value in enumerate(luck)
    )
    return BenchmarkScore(name=name, group="math", outcomes=tuple(items))


def scores(right: float, *, seed: int = 0) -> Scores:
    """GSM8K and MATH-500 at the sizes of the protocol; the same luck for all models of a seed."""
    return Scores(k=4, benchmarks=(outcomes("gsm8k", 200, right, seed), outcomes("math500", 100, right / 2, seed)))


def long_question(rng: random.Random) -> str:
    """As long and as hard to compress as a model's."""
    words = [f"{rng.choice('abcdefghijklmnop')}{rng.randrange(10**6)}" for _ in range(60)]
    return " ".join(words)


def written(directory: Path, config: Any, *, base: float, end: float) -> None:
    """A finished run of two iterations at the size of the real one."""
    plain = OmegaConf.to_container(config, resolve=False)
    assert isinstance(plain, dict)
    directory.parent.mkdir(parents=True, exist_ok=True)
    writer = RunWriter(directory, **{str(key): value for key, value in plain.items()})
    there, rng = RunDirectory(directory), random.Random(0)
    for number, right in enumerate((base, (base + end) / 2, end)):
        if number:
            for role, steps in (("challenger", 10), ("solver", 30)):
                for _ in range(steps):
                    values = {name: rng.random() for name in compact.CURVES}
                    writer.log(number, {f"{role}/{name}": value for name, value in values.items()})
            posed = writer.pose(number, audited=False)
            longer = [replace(q, question=long_question(rng)) if q.question else q for q in posed]
            JsonlBank(there).put(number, longer)
        path = there.scores(number)
        path.parent.mkdir(exist_ok=True)
        share = {"greedy": 0.01 * number, "sampled": 0.02}
        truncated = {"gsm8k": share, "math500": share}
        path.write_text(json.dumps({**scores(right).to_json(), "truncated": truncated}), encoding="utf-8")
        writer.log(number, {"evaluation/overall": 1.0})
    writer.manifest(finished=True)


def asked(base: float, end: float) -> list[Json]:
    return [{**scores(right).to_json(), "truncated": {}} for right in (base, end)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> SeededStudy:
    """The study with invented runs, all of them kept: R-Zero gains, the controls less."""
    root = tmp_path_factory.mktemp("seeded")
    made = replace(study.STUDY, root=root / "store", work=root / "work")
    gains = {"rzero": 0.1, "untrained_challenger": 0.04, "random_reward": -0.02}
    for name, seed in made.runs():
        directory = made.store().directory(made.arms[name], seed)
        config, better = made.config(name, seed), gains[name] + 0.01 * seed
        written(directory, config, base=0.25, end=0.25 + better)
        compact.keep(directory, made.folder(name, seed), config=config, transfer=asked(0.3, 0.3 + better / 2))
    return made


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


@pytest.fixture
def kept(whole: SeededStudy, monkeypatch: pytest.MonkeyPatch) -> SeededStudy:
    for module in (figures, command):
        monkeypatch.setattr(module, "STUDY", whole)
    return whole


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


def test_the_rounded_arms_differ_from_float32_in_the_engine_and_the_correction() -> None:
    exact, *rounded = (rounded_rollouts.STUDY.config(name, 0) for name in rounded_rollouts.STUDY.arms)
    assert (exact.engine.dtype, exact.iterations, exact.policy.lora) == (None, 3, None)
    assert [cfg.engine.dtype for cfg in rounded] == ["int8", "int8"]
    assert [cfg.solver.loss.mismatch is not None for cfg in rounded] == [True, False]
    assert [cfg.challenger.loss.mismatch is not None for cfg in rounded] == [True, False]
    for cfg in rounded:
        cfg.engine.dtype, cfg.solver.loss.mismatch, cfg.challenger.loss.mismatch = None, None, None
        assert cfg == exact


def test_a_kept_run_is_small_whole_and_tells_no_place(kept: SeededStudy) -> None:
    folder = kept.folder("rzero", 0)
    assert {path.name for path in folder.iterdir()} == {compact.CONFIG, "run.json", compact.RESULT}
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 20 * 1024
    assert compact.load(folder, 0).config.benchmarks.source.data_dir is None
    [run, *_] = kept.kept("rzero")
    assert run.scores[2].to_json() == scores(0.35).to_json()
    assert len(run.curves["2"]["solver"]["reward"]) == 30
    assert {"posed/well_formed", "posed/distinct", "posed/in_band", "curriculum/kept"} <= run.rounds[1].keys()
    assert run.truncated[2]["gsm8k"] == {"greedy": 0.02, "sampled": 0.02}
    assert {question["outcome"] for question in run.questions["1"]} >= {"kept", "below_band"}
    assert all(len(question["question"]) < 430 for question in run.questions["1"])


def test_a_run_is_not_kept_above_20_kilobytes(
    kept: SeededStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compact, "MOST_BYTES", 1000)
    directory = kept.store().directory(kept.arms["rzero"], 0)
    with pytest.raises(ValueError, match=r"would take \d+ bytes; a kept run takes at most 1000"):
        compact.keep(directory, tmp_path / "folder", config=kept.config("rzero", 0))
    assert not (tmp_path / "folder").exists()


def test_the_figures_are_those_of_gsm8k_with_every_key_of_micro(
    kept: SeededStudy, capsys: pytest.CaptureFixture[str]
) -> None:
    assert results.main(["qwen2_5_coder_0_5b", "--seeds", "0", "1", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    micro = {arm: [load(STORE / "micro" / recipe.folder / "seed0", 0)] for arm, recipe in results.ARMS["micro"].items()}
    assert results.summary(micro).keys() <= found.keys()
    pairs = [(study.only(run.scores[0], "gsm8k"), study.only(run.scores[2], "gsm8k")) for run in kept.kept("rzero")]
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
    kept: SeededStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        pytest.fail("a run was started")

    monkeypatch.setattr(SeededStudy, "execute", refuse)
    part = replace(kept, root=tmp_path)
    for name, seed in (("rzero", 0), ("rzero", 1), ("random_reward", 0)):
        shutil.copytree(kept.folder(name, seed), part.folder(name, seed))
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
    shutil.copytree(kept.folder("untrained_challenger", 1), part.folder("untrained_challenger", 1))
    found = figures.figures(figures.kept([0, 1]), [0, 1])
    assert found["controls"]["untrained Challenger"] is None, "the command must not show a mean over other seeds"
    assert "| R-Zero | 0, 1 |" in figures.row(found)
    assert "| untrained Challenger | 1 |" in figures.row(found), "a row says its seeds"
    assert results.main(["qwen2_5_coder_0_5b", "--json", "--seeds", "7"]) == 0
    assert json.loads(capsys.readouterr().out)["wall_minutes"] is None


def test_the_base_drawn_colder_is_asked_once_and_stands_beside_the_runs(
    kept: SeededStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = replace(kept, work=tmp_path, machine=("threads=1",))
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
    kept: SeededStudy, monkeypatch: pytest.MonkeyPatch
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
    kept: SeededStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
    none: dict[str, list[Any]] = {name: [] for name in kept.arms}
    figures.write(none, figures.figures(none, SEEDS))
    assert pages["half_billion"].read_text().count("\n") == 5


def test_the_pages_of_the_repository_are_those_of_the_kept_runs() -> None:
    runs = figures.kept(SEEDS)
    seeds = [run.seed for run in runs["rzero"]]
    found = figures.figures(figures.kept(seeds), seeds) if seeds else figures.figures(runs, SEEDS)
    assert bool(readme.current("half_billion")) == bool(seeds)
    assert readme.current("half_billion").endswith(figures.row(found))
    assert readme.current("small_language_models") == figures.page(runs, found)


def test_a_second_opinion_is_added_to_a_run_that_is_kept(kept: SeededStudy) -> None:
    directory, folder = kept.store().directory(kept.arms["rzero"], 2), kept.folder("rzero", 2)
    opinion = {"accuracy": 0.5, "asked": 50, "labels": [[0, "1", "1", 5, True]] * 50}
    path = RunDirectory(directory).second_opinion
    path.write_text(json.dumps({"settings": {}, "iterations": {"1": opinion, "2": opinion}}))
    kept.keep_opinions()
    assert kept.kept("rzero")[2].label_accuracy == [0.5, 0.5]
    assert "labels" not in (folder / "second_opinion.json").read_text()
    for written_now in (path, folder / "second_opinion.json"):
        written_now.unlink()


def test_runs_go_on_with_what_they_were_begun_with_and_a_failure_keeps_no_other_back(
    kept: SeededStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = replace(kept, root=tmp_path / "store", work=tmp_path / "work")
    started: list[tuple[str, int, tuple[str, ...]]] = []

    def pretend(arm: Any, seed: int, store: Any) -> bool:
        started.append((arm.folder, seed, store.extra))
        if arm.folder == "untrained_challenger":
            raise RuntimeError("the power went out")
        target = store.directory(arm, seed)
        shutil.copytree(kept.store().directory(arm, seed), target, dirs_exist_ok=True)
        return True

    monkeypatch.setattr(seeded, "finish", pretend)
    monkeypatch.setattr(command, "STUDY", replace(elsewhere, after=lambda directory, config: asked(0.3, 0.3)))
    begun = elsewhere.store().directory(elsewhere.arms["random_reward"], 0)
    begun.mkdir(parents=True)
    saved = elsewhere.config("random_reward", 0)
    saved.benchmarks.source.data_dir = "/first"
    OmegaConf.save(saved, begun / "config.yaml")
    chosen: Sequence[str] = ["--run", "--seeds", "0", "--data-dir", str(tmp_path), "--weights", "W", "--threads", "1"]
    assert command.main(chosen) == 2
    given = (f"benchmarks.source.data_dir={tmp_path}", "policy.path_or_id=W", "threads=1", "engine.threads=1")
    assert started == [
        ("rzero", 0, given),
        ("untrained_challenger", 0, given),
        ("random_reward", 0, ("benchmarks.source.data_dir=/first",)),
    ]
    said = capsys.readouterr()
    assert "the power went out" in said.err
    assert not elsewhere.lacks("rzero", 0)
    assert str(tmp_path) not in OmegaConf.to_yaml(compact.load(elsewhere.folder("rzero", 0), 0).config)
    assert command.main(["--seeds", "0", "--arms", "rzero"]) == 0
    assert command.main(["--seeds", "9"]) == 2
    (tmp_path / "file").touch()
    assert command.main(["--data-dir", str(tmp_path / "file")]) == 2
    assert command.main(["--threads", "0"]) == 2


@pytest.mark.parametrize(
    ("begun", "goes_on_with"),
    [
        ({}, ()),
        ({"threads": 7}, ("threads=7",)),
        ({"iterations": 9}, ("threads=1", "engine.threads=1")),
        (None, ("threads=1", "engine.threads=1")),
    ],
    ids=["as its recipe", "other threads", "another recipe", "not begun"],
)
def test_what_this_machine_is_said_to_have_counts_where_a_run_begins(
    kept: SeededStudy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    begun: Json | None,
    goes_on_with: tuple[str, ...],
) -> None:
    """A run that was begun with the threads of its recipe was taken for one of another recipe, and removed."""
    elsewhere = seeded.on_machine(replace(kept, work=tmp_path / "work"), data_dir=None, weights=None, threads=1)
    directory = elsewhere.store().directory(elsewhere.arms["rzero"], 0)
    if begun is not None:
        directory.mkdir(parents=True)
        config = elsewhere.config("rzero", 0)
        config.merge_with(begun)
        OmegaConf.save(config, directory / "config.yaml")
    asked_for: list[tuple[str, ...]] = []
    monkeypatch.setattr(seeded, "finish", lambda arm, seed, store: asked_for.append(store.extra))
    with pytest.raises(RuntimeError, match="is not finished"):
        elsewhere.execute("rzero", 0)
    assert asked_for == [goes_on_with]


def test_the_output_of_a_run_is_in_a_file_while_it_is_running(tmp_path: Path) -> None:
    log = runs.log_of(tmp_path / "work" / "seed1")
    assert log == tmp_path / "work" / "seed1.log"
    for attempt in (1, 2):
        with pytest.raises(RuntimeError, match=r"json\.tool .* ended with code \d") as failure:
            runs.command("json.tool", f"nowhere_{attempt}", log=log)
        assert f"nowhere_{attempt}'" in str(failure.value)
        assert f"nowhere_{attempt - 1}'" not in str(failure.value), "what an earlier attempt said is no reason"
    assert "nowhere_1'" in log.read_text()
    (tmp_path / "some.json").write_text("[1]")
    runs.command("json.tool", "--compact", str(tmp_path / "some.json"), log=log)
    assert log.read_text().endswith("\n[1]\n")


def test_runs_that_end_at_the_same_time_are_measured_one_after_the_other(
    kept: SeededStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, under_way, most = tmp_path / "study" / "evaluated", [0], [0]

    def pretend(module: str, *arguments: str) -> None:
        under_way[0] += 1
        most[0] = max(most[0], under_way[0])
        time.sleep(0.1)  # long enough for another to come along
        (place / "scores").mkdir(parents=True, exist_ok=True)
        for number, policy in enumerate(arguments[0].removeprefix("policy=").split(",")):
            entry = {"policy": policy, "scores": {"overall": number, "table": {}}}
            (place / "scores" / f"{number}.json").write_text(json.dumps(entry))
        under_way[0] -= 1

    monkeypatch.setattr(seeded, "command", pretend)
    directory = kept.store().directory(kept.arms["rzero"], 0)
    with ThreadPoolExecutor(3) as pool:
        config = kept.config("rzero", 0)
        found = list(pool.map(lambda _: seeded.ends(directory, config, place), range(3)))
    assert found[0] == found[1] == found[2]
    assert most == [1]


def test_what_nobody_trains_for_is_asked_with_the_threads_of_the_run(
    kept: SeededStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked_for: list[str] = []
    monkeypatch.setattr(study, "ends", lambda directory, config, place, *overrides: asked_for.extend(overrides) or [])
    config = kept.config("rzero", 0)
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


def test_the_verdict_on_rounding_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Means 4 and 2; variances 1 and 1 of three each: standard error sqrt(2/3)."""
    monkeypatch.setattr(rounded_rollouts, "end", lambda run: run)
    points, error = rounded_rollouts.difference([3.0, 4.0, 5.0], [1.0, 2.0, 3.0])  # type: ignore[list-item]
    assert (points, error) == (2.0, pytest.approx((2 / 3) ** 0.5))
