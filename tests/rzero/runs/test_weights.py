"""The mean of a role's weights over iterations: full weights and adapters, from what is on disk alone."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from rzero.adapters import adapter_weights
from rzero.gathering import merged_weights
from rzero.opinions import Ema
from rzero.policy import load_policy
from rzero.tracking import read_metrics
from tests.rzero.test_adapters import run_of, shake
from tests.rzero.tiny_run import execute, tiny_run


def test_adapters_are_averaged_over_one_base(base: Path, tmp_path: Path) -> None:
    weights = run_of(tmp_path, base)
    for iteration in (1, 2):
        trained = weights.load_start("solver", iteration)
        shake(trained, scale=float(iteration))
        trained.save(tmp_path / f"iteration_{iteration}" / "solver")
    parts = [adapter_weights(weights.load("solver", i).model) for i in range(3)]
    mean = weights.load_mean("solver", {0: 0.5, 1: 0.25, 2: 0.25})
    for name, tensor in adapter_weights(mean.model).items():
        torch.testing.assert_close(tensor, 0.5 * parts[0][name] + 0.25 * parts[1][name] + 0.25 * parts[2][name])
    alone = adapter_weights(weights.load_mean("solver", {2: 1.0}).model)
    assert all(torch.equal(tensor, parts[2][name]) for name, tensor in alone.items())


@pytest.mark.usefixtures("quiet_lightning")
def test_an_average_votes_along_from_the_second_round_on_and_is_paid_for(base: Path, tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "run", base, iterations=2)
    run.curriculum = dataclasses.replace(run.curriculum, anchors=Ema(decay=0.75, votes=3))
    execute(run)
    assert [{len(item.vote.others) for item in run.bank.get(i) if item.vote} for i in (1, 2)] == [{0}, {1}]
    paid = [row.get("extra/responses/anchors") for row in read_metrics(run.stages.directory.metrics)]
    assert [value for value in paid if value is not None] == [3.0 * len(run.bank.get(2))]
    parts = [
        merged_weights(load_policy(path, dtype="float32", attn_implementation="sdpa").model)
        for path in (base, tmp_path / "run" / "iteration_1" / "solver")
    ]
    mean = merged_weights(run.weights.load_mean("solver", {0: 0.75, 1: 0.25}).model)
    for name, tensor in mean.items():
        torch.testing.assert_close(tensor, 0.75 * parts[0][name] + 0.25 * parts[1][name])
    assert mean["model.embed_tokens.weight"].data_ptr() == mean["lm_head.weight"].data_ptr(), "tied weights stay tied"
