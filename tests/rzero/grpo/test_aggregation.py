"""Weights of tokens against values worked out by hand, and a gradient that does not know how the step was split."""

import math
from dataclasses import replace

import pytest
import torch

from rzero.grpo import ConstantLength, MicroBatchMean, PolicyLoss, SequenceMean, TokenMean, mini_batch_totals
from tests.rzero.one_token import PLAIN, vector

AGGREGATIONS = {
    "sequence_mean": SequenceMean(),
    "token_mean": TokenMean(),
    "constant": ConstantLength(max_tokens=9),
    "micro1": MicroBatchMean(size=1),
    "micro2": MicroBatchMean(size=2),
}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # lengths 1, 3, 0, 2: 6 scored tokens; the masked row is one of the 4 sequences all the same
        ("sequence_mean", [1 / 4, 1 / 12, 0, 1 / 8]),
        ("token_mean", [1 / 6, 1 / 6, 0, 1 / 6]),
        ("constant", [1 / 36, 1 / 36, 0, 1 / 36]),
        ("micro1", [1 / 4, 1 / 12, 0, 1 / 8]),
        ("micro2", [1 / 2 / 4, 1 / 2 / 4, 0, 1 / 2 / 2]),  # two runs, of 4 scored tokens and of 2
    ],
)
def test_weights_by_hand(name, expected):
    mask_NT = torch.tensor([[1, 0, 0], [1, 1, 1], [0, 0, 0], [1, 1, 0]])
    got = AGGREGATIONS[name].weights(mask_NT, totals=mini_batch_totals(mask_NT), dtype=torch.float64)
    torch.testing.assert_close(got, vector(*expected).unsqueeze(1) * mask_NT)


def test_all_masked_windows_weigh_nothing():
    mask_NT = torch.zeros(2, 3)
    for aggregation in AGGREGATIONS.values():
        assert not aggregation.weights(mask_NT, totals=mini_batch_totals(mask_NT)).any()


@pytest.mark.parametrize("name", AGGREGATIONS)
@pytest.mark.parametrize("ranks", [1, 2])
def test_gradient_and_metrics_do_not_depend_on_the_split(name, ranks):
    torch.manual_seed(0)
    rows, width = 8, 7
    lengths_N = torch.tensor([7, 1, 3, 0, 5, 2, 7, 4])
    mask_NT = torch.arange(width) < lengths_N.unsqueeze(1)
    logp_NT, old_NT, ref_NT = (-torch.rand(3, rows, width, dtype=torch.float64)).unbind()
    advantages_N = torch.randn(rows, dtype=torch.float64)
    loss = PolicyLoss(clip_low=0.2, clip_high=0.3, dual_clip=3.0, kl_coefficient=0.1, aggregation=AGGREGATIONS[name])

    def step(split, *, ranks):
        leaf_NT = logp_NT.clone().requires_grad_()
        shards = torch.arange(rows).chunk(ranks)
        totals = mini_batch_totals(mask_NT)
        metrics: dict[str, float] = {}
        for shard in shards:
            weights_NT = torch.zeros(rows, width, dtype=torch.float64)
            weights_NT[shard] = loss.aggregation.weights(mask_NT, totals=totals, dtype=torch.float64)[shard]
            for part in shard.split(split):
                output = loss(
                    logp_BT=leaf_NT[part],
                    old_logp_BT=old_NT[part],
                    ref_logp_BT=ref_NT[part],
                    advantages_B=advantages_N[part],
                    weights_BT=weights_NT[part],
                    mask_BT=mask_NT[part],
                )
                output.loss.backward()
                for key, value in output.metrics.items():
                    metrics[key] = metrics.get(key, 0.0) + value.item()
        return leaf_NT.grad, metrics

    expected_grad, expected_metrics = step(8, ranks=1)
    for split in (1, 2, 3):
        grad, metrics = step(split, ranks=ranks)
        torch.testing.assert_close(grad, expected_grad, atol=1e-15, rtol=1e-12)
        assert metrics == pytest.approx(expected_metrics)
    if name != "constant":
        weights_NT = loss.aggregation.weights(mask_NT, totals=mini_batch_totals(mask_NT))
        assert expected_metrics["ratio"] == pytest.approx(float((weights_NT * (logp_NT - old_NT).exp()).sum()))


def masked_step(aggregation, *, masked, kl=0.0):
    """Loss and gradient of 4 rows of 3 tokens, of which `masked` are left out and hold NaN."""
    torch.manual_seed(1)
    mask_NT = torch.ones(4, 3, dtype=torch.bool)
    mask_NT[list(masked)] = False
    values_NT = -torch.rand(4, 3, dtype=torch.float64)
    leaf_NT = torch.where(mask_NT, values_NT, math.nan).requires_grad_()
    output = replace(PLAIN, aggregation=aggregation, kl_coefficient=kl)(
        logp_BT=leaf_NT,
        old_logp_BT=leaf_NT.detach(),
        ref_logp_BT=leaf_NT.detach() - 0.3,
        advantages_B=vector(1.0, -2.0, 3.0, -1.0),
        weights_BT=aggregation.weights(mask_NT, totals=mini_batch_totals(mask_NT), dtype=torch.float64),
        mask_BT=mask_NT,
    )
    output.loss.backward()
    return output.loss.item(), leaf_NT.grad


@pytest.mark.parametrize(
    ("name", "share"),
    [("token_mean", 1 / 6), ("sequence_mean", 1 / 12), ("constant", 1 / 36), ("micro1", 1 / 12), ("micro2", 1 / 6)],
)
def test_masked_rows_stay_among_the_sequences_but_not_among_the_tokens(name, share):
    """What masked truncation does to the denominator (trl#6369): a token of advantage A has the gradient -A x share."""
    loss, grad_NT = masked_step(AGGREGATIONS[name], masked=(1, 2))
    expected_N1 = vector(-1.0, 0.0, 0.0, 1.0).unsqueeze(1) * share
    torch.testing.assert_close(grad_NT, expected_N1.expand(4, 3))
    assert loss == pytest.approx(0.0, abs=1e-12)  # ratio 1 everywhere: advantages 1 and -1
    loss, grad_NT = masked_step(AGGREGATIONS[name], masked=range(4))
    assert loss == 0.0
    assert not grad_NT.any()
