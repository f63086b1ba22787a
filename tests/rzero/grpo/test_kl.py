"""Estimates of the KL divergence against values worked out by hand."""

import math

import pytest
import torch

from rzero.grpo import kl_divergence, kl_penalised_rewards
from tests.rzero.one_token import vector


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [("k1", [-0.5, 1.0]), ("k2", [0.125, 0.5]), ("k3", [math.exp(0.5) - 1.5, math.exp(-1.0)])],
)
def test_kl_estimators_by_hand(estimator, expected):
    got = kl_divergence(vector(-1.0, -1.0), vector(-0.5, -2.0), estimator=estimator, clamp=10.0)
    torch.testing.assert_close(got, vector(*expected))


def test_kl_clamp_stops_value_and_gradient():
    logp = vector(-5.0).requires_grad_()
    kl = kl_divergence(logp, vector(0.0), estimator="k3", clamp=10.0)  # e^5 - 6 = 142
    kl.backward()
    assert kl.item() == 10.0
    assert logp.grad.item() == 0.0
    assert kl_divergence(vector(-1e9), vector(0.0), estimator="k3", clamp=math.inf).isfinite()


def test_kl_in_the_reward():
    got = kl_penalised_rewards(
        vector(1.0, 0.0),
        kl_BT=torch.tensor([[0.5, 0.25], [2.0, math.nan]]),
        mask_BT=torch.tensor([[1, 1], [1, 0]]),
        coefficient=0.1,
    )
    torch.testing.assert_close(got, vector(0.925, -0.2))
