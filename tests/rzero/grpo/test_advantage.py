"""Advantages and statistics of rewards against values worked out by hand."""

import math

import pytest
import torch

from rzero.grpo import group_advantages, positive_advantages, reward_statistics, soft_overlong_penalty
from tests.rzero.one_token import vector

NAN, INF = math.nan, math.inf


def test_group_advantages_by_hand():
    # rewards 1, 0, 0, 1: mean 0.5, unbiased variance (4 x 0.25) / 3, std 0.577350
    got = group_advantages(vector(1, 0, 0, 1), torch.zeros(4, dtype=torch.long), eps=0.0)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, torch.tensor([0.8660254, -0.8660254, -0.8660254, 0.8660254]))


def test_groups_may_be_interleaved_and_have_any_names():
    rewards_B, group_B = vector(1, 5, 0, 7), torch.tensor([40, -2, 40, -2])
    half = 1 / math.sqrt(2)  # two members: deviation d / 2 over std d / sqrt(2)
    torch.testing.assert_close(group_advantages(rewards_B, group_B, eps=0.0), torch.tensor([half, -half, -half, half]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scaling", ["group", "none"])
@pytest.mark.parametrize("baseline", ["mean", "leave_one_out"])
@pytest.mark.parametrize("size", [1, 3, 5, 8, 64])
def test_equal_rewards_give_exactly_zero(dtype, scaling, baseline, size):
    for reward in (0.9, 0.1, 0.3, 0.4995, 1 / 3):
        rewards_B = torch.full((size,), reward, dtype=dtype)
        got = group_advantages(rewards_B, torch.zeros(size, dtype=torch.long), scaling=scaling, baseline=baseline)
        assert torch.equal(got, torch.zeros(size))


@pytest.mark.parametrize("scaling", ["group", "batch", "none"])
@pytest.mark.parametrize("baseline", ["mean", "leave_one_out"])
@pytest.mark.parametrize(
    "rewards",
    [
        [0.1] * 3,
        [1.0] * 7 + [1 - 1e-7],
        [0.6, 0.6 + 9e-7],
        [1e6, 1e6 + 0.5],
        [0.0, 1e-7],
        [1.0, NAN],
        [1.0, INF],
        [NAN],
    ],
)
def test_rewards_that_differ_by_rounding_are_an_equal_group(rewards, scaling, baseline):
    """Over a standard deviation of 1e-7 rounding was an advantage of -0.085 (compare NeMo-RL#4161, atropos#481)."""
    rewards_B, group_B = vector(*rewards), torch.zeros(len(rewards), dtype=torch.long)
    assert not group_advantages(rewards_B, group_B, scaling=scaling, baseline=baseline).any()
    assert reward_statistics(rewards_B, group_B).equal_fraction == 1.0


def test_rewards_that_differ_by_more_are_not_and_official_asks_for_the_same_number():
    group_B = torch.zeros(2, dtype=torch.long)
    for rewards_B in (vector(0.6, 0.6 + 1.1e-6), vector(-1e6, -1e6 + 1.1), vector(0.0, 1.0)):
        assert group_advantages(rewards_B, group_B).all()
    assert group_advantages(vector(1.0, 1 - 1e-7), group_B, equal_within=0.0).all()
    assert not group_advantages(vector(1.0, 1.0), group_B, equal_within=0.0).any()
    assert not group_advantages(vector(NAN, NAN), group_B, equal_within=0.0).any()
    [*equal, best] = group_advantages(
        vector(*[0.35] * 7, 0.95), torch.zeros(8, dtype=torch.long), baseline="leave_one_out"
    ).tolist()
    assert best == pytest.approx(8 / 7 * 0.525 / 0.2121320, abs=1e-4)  # mean 0.425, unbiased deviation 0.6 / sqrt(8)
    assert equal == pytest.approx([-best / 7] * 7, abs=1e-5)
    with pytest.raises(ValueError, match="equal_within must be 0 or positive, got -1"):
        group_advantages(vector(1.0, 0.0), group_B, equal_within=-1)


def test_batch_scaling_keeps_equal_groups_at_zero():
    # deviations +-0.5, 0, 0; the standard deviation of 1, 0, 0.9, 0.9 is 0.469042
    got = group_advantages(vector(1, 0, 0.9, 0.9), torch.tensor([0, 0, 1, 1]), scaling="batch", eps=0.0)
    torch.testing.assert_close(got, torch.tensor([1.0660036, -1.0660036, 0.0, 0.0]))


def test_unscaled_and_leave_one_out_by_hand():
    group_B = torch.zeros(4, dtype=torch.long)
    rewards_B = vector(1, 0, 0, 0)
    torch.testing.assert_close(
        group_advantages(rewards_B, group_B, scaling="none"), torch.tensor([0.75, -0.25, -0.25, -0.25])
    )
    torch.testing.assert_close(
        group_advantages(rewards_B, group_B, scaling="none", baseline="leave_one_out"),
        torch.tensor([1.0, -1 / 3, -1 / 3, -1 / 3]),
    )


def test_only_what_is_better_than_its_group_is_positive():
    # one right of four: (1 - 0.25) / 0.5; all right, and all wrong: nothing
    rewards, groups = vector(1, 0, 0, 0, 1, 1, 0, 0), torch.tensor([0, 0, 0, 0, 1, 1, 2, 2])
    got = positive_advantages(rewards, groups, eps=0.0)
    torch.testing.assert_close(got, torch.tensor([1.5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]))


def test_rewards_that_are_not_finite_are_left_out():
    rewards_B, group_B = vector(1, NAN, 0, INF, 0.5, NAN), torch.tensor([0, 0, 0, 1, 1, 2])
    got = group_advantages(rewards_B, group_B, eps=0.0)
    half = 1 / math.sqrt(2)
    torch.testing.assert_close(got, torch.tensor([half, 0.0, -half, 0.0, 0.0, 0.0]))
    statistics = reward_statistics(rewards_B, group_B)
    assert statistics.non_finite == 3
    assert statistics.mean == pytest.approx(0.5)
    assert statistics.std == pytest.approx(0.5)
    assert statistics.group_std == pytest.approx(half / 3)
    assert statistics.equal_fraction == pytest.approx(2 / 3)


def test_wrong_inputs_are_refused():
    group_B = torch.zeros(2, dtype=torch.long)
    with pytest.raises(ValueError, match="equally long"):
        group_advantages(vector(1, 2, 3), group_B)
    with pytest.raises(ValueError, match=r"advantage\.scaling"):
        group_advantages(vector(1, 2), group_B, scaling="std")
    with pytest.raises(ValueError, match=r"advantage\.baseline"):
        group_advantages(vector(1, 2), group_B, baseline="median")


def test_soft_overlong_penalty_by_hand():
    lengths_B = torch.tensor([0, 80, 85, 100, 120])
    torch.testing.assert_close(
        soft_overlong_penalty(lengths_B, max_tokens=100, buffer_tokens=20), torch.tensor([0.0, 0.0, -0.25, -1.0, -1.0])
    )
    with pytest.raises(ValueError, match="buffer_tokens"):
        soft_overlong_penalty(lengths_B, max_tokens=100, buffer_tokens=0)
