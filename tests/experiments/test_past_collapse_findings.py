"""The alarm's fit and its measures, and the study's figures, on made-up runs whose answers are known."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from experiments import readme, results
from experiments.reporting.figures import png
from experiments.reproduce.past_collapse import __main__ as command
from experiments.reproduce.past_collapse import calibration, findings, goals, picture
from experiments.reproduce.past_collapse.arms import CONFIRM, PARTS, SCREEN, TWENTY, WINNER
from experiments.reproduce.past_collapse.judging import area, judge
from experiments.reproduce.past_collapse.keeping import Kept
from experiments.reproduce.past_collapse.watched import Watched, kept, of_run, watched
from rzero.alarm import share
from tests.experiments.small import config

NOISE = np.random.default_rng(0)


def made_up(seed: int, *, labels: Sequence[float], overall: Sequence[float], families: float = 2.9) -> Kept:
    """A run whose earlier Solvers come to the same label about as often as it is right."""
    rounds = [{}] + [
        {
            "signals/previous_same": right + 0.02 * float(NOISE.normal()),
            "signals/first_same": right,
            "signals/first_answers": right,
            "signals/agreement": 0.7,
            "signals/own_answer": 0.1,
            "signals/cells": 2.5 * families,
            "signals/vendi": families,
            "audit/label_accuracy_kept": right,
            "audit/families": families,
        }
        for right in labels
    ]
    return Kept(
        seed=seed,
        manifest={"attempts": []},
        rounds=rounds,
        overall=overall,
        families=[],
        levels=[],
        hard={number: float(number) for number in range(len(overall))},
        hard_levels={},
        items={},
    )


def steady(seed: int, *, end: float = 60.0, rounds: int = 10) -> Kept:
    return made_up(seed, labels=[0.9] * rounds, overall=[40.0, *[60.0] * (rounds - 1), end])


def falling(seed: int, *, end: float = 50.0) -> Kept:
    labels = [0.9, 0.8, 0.6, 0.45, 0.3, 0.2, 0.1, 0.1, 0.1, 0.1]
    return made_up(seed, labels=labels, overall=[40.0, 58.0, *[60.0 - n for n in range(8)], end], families=1.2)


def rounds_of(**arms: Sequence[Kept]) -> list[Watched]:
    return [entry for arm, runs in arms.items() for run in runs for entry in of_run(run, arm=arm)]


def test_events_of_a_round_are_those_of_the_definition() -> None:
    run = made_up(0, labels=[0.9, 0.6, 0.4, 0.7], overall=[40.0, 50.0, 49.0, 51.0, 48.0], families=2.0)
    entries = list(of_run(run, arm="x"))
    assert [entry.number for entry in entries] == [1, 2, 3, 4]
    assert [entry.labels_fail for entry in entries] == [False, True, True, False]
    assert [entry.too_few for entry in entries] == [False] * 4
    assert [entry.falls for entry in entries] == [False, True, None, None], "51 > 40; 48 < 50; the run ends"


def test_regressions_find_what_made_the_data() -> None:
    x = NOISE.normal(size=(4000, 2))
    intercept, weights = calibration.linear(x - x.mean(axis=0), 2 + (x - x.mean(axis=0)) @ [1.0, -0.5])
    assert [intercept, *weights] == pytest.approx([2, 1, -0.5], abs=1e-2)
    intercept, weights = calibration.logistic(x, np.array([share(0.5 + a - 2 * b) for a, b in x]))
    assert [intercept, *weights] == pytest.approx([0.5, 1, -2], abs=2e-2)
    intercept, weights = calibration.logistic(np.zeros((5, 1)), np.ones(5))
    assert math.isfinite(intercept)
    assert weights == pytest.approx([0.0])


def test_the_area_is_the_share_of_pairs_in_order() -> None:
    assert area([True, False, True, False], [3.0, 1.0, 2.0, 2.0]) == pytest.approx((1 + 1 + 1 + 0.5) / 4)
    assert area([True, True], [1.0, 2.0]) is None


def test_a_verdict_counts_by_hand() -> None:
    rounds = rounds_of(good=[steady(0)], bad=[falling(0)])
    estimates = [{"alarm/label_accuracy": entry.labels, "alarm/families": entry.families} for entry in rounds]
    estimates[0] = {"alarm/label_accuracy": 0.4, "alarm/families": 2.9}  # a false alarm in the first round of ten
    verdict = judge(rounds, estimates, lows={"label_accuracy": 0.5, "families": 2.0})
    assert (verdict.runs, verdict.rounds) == (2, 20)
    assert (verdict.families, verdict.false_alarms, verdict.calm_alarms) == (1.0, 0.1, 0.1)
    # fewer than half right now or next: rounds 3 to 10 of the second run, whose 0.6 and 0.45 are above the 0.4
    assert verdict.labels == pytest.approx((8 * 12 - 2) / (8 * 12))
    assert (verdict.near, verdict.near_worst) == (0.95, 0.9)
    assert verdict.auc == verdict.labels
    assert judge([], [], lows={}).auc is None


def test_the_alarm_is_fitted_written_and_read_as_it_was_judged(tmp_path: Path) -> None:
    rounds = rounds_of(good=[steady(s) for s in range(3)], bad=[falling(s) for s in range(3)])
    estimates = calibration.left_out(rounds, lambda entry: (entry.arm, entry.seed))
    lows = calibration.limits(rounds, estimates)
    assert lows == {"label_accuracy": 0.5, "families": 2.0}
    verdict = judge(rounds, estimates, lows=lows)
    assert verdict.auc is not None
    assert verdict.auc > 0.95
    alarm = calibration.fit(rounds)
    calibration.write(alarm, lows, rounds=rounds, path=tmp_path / "alarm.yaml")
    written = OmegaConf.load(tmp_path / "alarm.yaml")
    read = instantiate(written.alarm, _convert_="object")
    assert [read(entry.metrics) for entry in rounds] == [alarm(entry.metrics) for entry in rounds]
    assert "60 rounds of 6 runs" in (tmp_path / "alarm.yaml").read_text()


def test_calm_rounds_that_look_bad_lower_the_limits() -> None:
    rounds = rounds_of(good=[steady(0)])
    estimates = [{"alarm/label_accuracy": 0.3, "alarm/families": 2.9}] * len(rounds)
    assert calibration.limits(rounds, estimates) == {"label_accuracy": 0.3, "families": 2.0}


def test_the_alarm_of_the_configuration_estimates_a_round() -> None:
    monitor = instantiate(config().collapse)
    judged = monitor.judge(next(of_run(steady(0), arm="x")).metrics)
    assert set(judged) == {"alarm/label_accuracy", "alarm/families", "alarm/raised"}
    assert {"label_accuracy", "families"} <= monitor.limits.keys()


CONFIRMED = {
    WINNER: {seed: steady(seed, end=60.0 + seed) for seed in range(3)},
    "rzero": {seed: falling(seed, end=50.0) for seed in range(2)},
    "labelled": {0: steady(0, end=61.0)},
}
NOTHING = {part.name: {} for part in PARTS.values()}


def test_figures_are_paired_by_seed_and_missing_ones_are_none() -> None:
    twenty = {WINNER: {0: made_up(0, labels=[0.9] * 20, overall=[40.0] + [60.0] * 10 + [59.5] * 10)}}
    found = findings.findings({**NOTHING, CONFIRM.name: CONFIRMED, TWENTY.name: twenty})
    assert found["seeds"] == [0, 1, 2]
    # ends 60, 61, 62 against 60 in the best earlier round: mean 1, standard error 1 / sqrt(3), t(0.975, 2) = 4.3027
    assert found["decline_low"] == pytest.approx(1 - 4.3027 / 3**0.5, abs=1e-3)
    assert found["paired_gain"] == pytest.approx((10 + 11) / 2)
    assert found["paired_gain_low"] == pytest.approx(10.5 - 12.7062 * 0.5, abs=1e-3)
    assert (found["below_ceiling"], found["counts"]["ceiling"]) == (1.0, 1)
    assert (found["label_accuracy"], found["effective_families"]) == pytest.approx((0.9, 2.9))
    assert found["twenty_rounds"] == -0.5
    assert (found["hard_gain"], found["late_gain"]) == (7.0, 1.0)
    assert found["sizes"] == {"medium": None, "micro": None}
    assert found["arms"]["confirm"]["rzero"]["seeds"] == [0, 1]
    assert found["arms"]["confirm"]["rzero"]["label_accuracy"][-1] == 0.1
    nothing = findings.findings(NOTHING)
    names = "decline_low", "below_ceiling", "paired_gain", "paired_gain_low", "alarm_auc", "twenty_rounds"
    assert [nothing[name] for name in names] == [None] * 6
    assert nothing["seeds"] == []
    json.dumps([found, nothing], allow_nan=False)


def test_results_prints_them_and_starts_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(findings, "kept", lambda part: CONFIRMED if part == CONFIRM else {})
    assert results.main(["past_collapse", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["winner"] == WINNER
    assert results.main(["past_collapse"]) == 0
    assert "decline_low" in capsys.readouterr().out
    assert results.main(["past_collapse", "--run"]) == 2


def test_the_picture_and_its_tables_say_of_how_many_seeds_they_are() -> None:
    assert png(lambda: picture.draw(CONFIRMED)).startswith(b"\x89PNG")
    table = picture.table(CONFIRM, CONFIRMED)
    assert f"| `{WINNER}` | 3 | 40.0 ± 0.0 |" in table
    assert picture.table(CONFIRM, {}) == "No run of `confirm` is kept yet."


def test_the_page_holds_the_tables_of_the_kept_runs() -> None:
    runs = {part.name: kept(part) for part in PARTS.values()}
    for part in (CONFIRM, TWENTY):
        assert picture.table(part, runs[part.name]) == readme.current(f"past_collapse_{part.name}")
    assert goals.table(findings.findings(runs)) == readme.current("past_collapse_goals")


def test_goals_have_a_direction_and_what_is_not_measured_is_not_reached() -> None:
    found = findings.findings({**NOTHING, CONFIRM.name: CONFIRMED})
    text = goals.table(found)
    assert "| winner minus R-Zero, round 10 | 5 |  | 10.50 | 2 | yes |" in text
    assert "| labelled training minus the winner, round 10 |  | 1.5 | 1.00 | 1 | yes |" in text
    assert "| round 20 minus round 10 | -0.5 |  | - | 0 | not measured |" in text
    worse = {**found, "paired_gain": 4.9, "below_ceiling": 1.6}
    assert "| winner minus R-Zero, round 10 | 5 |  | 4.90 | 2 | no |" in goals.table(worse)
    assert "| labelled training minus the winner, round 10 |  | 1.5 | 1.60 | 1 | no |" in goals.table(worse)


def test_calibration_without_runs_says_what_is_missing_and_writes_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(calibration, "PLACE", tmp_path / "alarm.yaml")
    monkeypatch.setattr(command, "kept", lambda part: {})
    assert command.main(["calibrate"]) == 1
    assert "no screening run is kept" in capsys.readouterr().err
    runs = {"rzero": {10: falling(10), 11: falling(11)}, WINNER: {10: steady(10)}}
    monkeypatch.setattr(command, "kept", lambda part: runs if part == SCREEN else {})
    assert len(watched({"screen": runs})) == 30
    assert command.main(["calibrate"]) == 0
    assert (tmp_path / "alarm.yaml").is_file()
