"""Advantages and the policy loss against values worked out by hand, and invariance of the gradient."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from experiments.conformance.__main__ import read_rows
from experiments.conformance.grpo import check_grpo
from rzero.engines.sampling import TokenSampler, row_keys
from rzero.grpo import (
    ConstantLength,
    MaskedImportanceSampling,
    MicroBatchMean,
    PolicyLoss,
    SequenceMean,
    TokenMean,
    TruncatedImportanceSampling,
    group_advantages,
    kl_divergence,
    kl_penalised_rewards,
    mini_batch_totals,
    reward_statistics,
    soft_overlong_penalty,
)
from rzero.types import Sampling

GOLDEN = Path(__file__).parents[2].parent / "shared/golden/grpo.public.jsonl"
NAN, INF = math.nan, math.inf
AGGREGATIONS = {
    "sequence_mean": SequenceMean(),
    "token_mean": TokenMean(),
    "constant": ConstantLength(max_tokens=9),
    "micro1": MicroBatchMean(size=1),
    "micro2": MicroBatchMean(size=2),
}
PLAIN = PolicyLoss(clip_low=0.2, clip_high=0.3, aggregation=TokenMean())


def vector(*values):
    return torch.tensor(values, dtype=torch.float64)


# --- advantages ---


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


# --- KL ---


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
    assert kl_divergence(vector(-1e9), vector(0.0), estimator="k3", clamp=INF).isfinite()


def test_kl_in_the_reward():
    got = kl_penalised_rewards(
        vector(1.0, 0.0),
        kl_BT=torch.tensor([[0.5, 0.25], [2.0, NAN]]),
        mask_BT=torch.tensor([[1, 1], [1, 0]]),
        coefficient=0.1,
    )
    torch.testing.assert_close(got, vector(0.925, -0.2))


# --- one token at a time ---


def one_token(loss, *, ratio, advantage, **given):
    """(loss, d loss / d logp, metrics) of a single token of weight 1 with this ratio."""
    logp_BT = vector(math.log(ratio)).reshape(1, 1).requires_grad_()
    output = loss(
        logp_BT=logp_BT,
        old_logp_BT=torch.zeros(1, 1, dtype=torch.float64),
        ref_logp_BT=given.pop("ref_logp_BT", None),
        advantages_B=vector(advantage),
        weights_BT=torch.ones(1, 1),
        mask_BT=torch.ones(1, 1),
        **given,
    )
    output.loss.backward()
    return output.loss.item(), logp_BT.grad.item(), {name: value.item() for name, value in output.metrics.items()}


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected_loss", "expected_gradient", "clipped"),
    [
        (1.0, 2.0, -2.0, -2.0, None),
        (1.2, 2.0, -2.4, -2.4, None),
        (1.5, 2.0, -2.6, 0.0, "high"),  # 1.3 x 2
        (0.5, 2.0, -1.0, -1.0, None),  # the clip only ever limits the gain
        (0.5, -2.0, 1.6, 0.0, "low"),  # 0.8 x 2
        (1.5, -2.0, 3.0, 3.0, None),
        (4.0, -2.0, 6.0, 0.0, "dual"),  # 3 x 2
        (4.0, 0.0, 0.0, 0.0, None),
    ],
)
def test_clip_and_dual_clip_by_hand(ratio, advantage, expected_loss, expected_gradient, clipped):
    loss, gradient, metrics = one_token(replace(PLAIN, dual_clip=3.0), ratio=ratio, advantage=advantage)
    assert loss == pytest.approx(expected_loss)
    assert gradient == pytest.approx(expected_gradient)
    for side in ("low", "high", "dual"):
        assert metrics[f"clip_ratio/{side}_mean"] == (side == clipped)
    assert metrics["ratio"] == pytest.approx(ratio)


def test_without_dual_clip_a_negative_advantage_is_unbounded():
    assert one_token(PLAIN, ratio=4.0, advantage=-2.0)[:2] == pytest.approx((8.0, 8.0))


@pytest.mark.parametrize(
    ("ratio", "advantage", "weight"), [(0.5, 2.0, 0.5), (1.5, 2.0, 1.3), (1.5, -2.0, 1.3), (9.0, -1.0, 1.3)]
)
def test_cispo_by_hand(ratio, advantage, weight):
    loss, gradient, _ = one_token(replace(PLAIN, objective="cispo", clip_low=1.0), ratio=ratio, advantage=advantage)
    assert loss == pytest.approx(-weight * advantage * math.log(ratio))
    assert gradient == pytest.approx(-weight * advantage)  # never zero: the weight carries no gradient


def test_kl_and_entropy_terms_by_hand():
    loss = replace(PLAIN, kl_coefficient=0.1, entropy_coefficient=0.01)
    value, _, metrics = one_token(
        loss, ratio=1.0, advantage=2.0, ref_logp_BT=vector(-1.0).reshape(1, 1), entropy_BT=vector(3.0).reshape(1, 1)
    )
    assert metrics["kl"] == pytest.approx(math.exp(-1))
    assert metrics["entropy"] == 3.0
    assert value == pytest.approx(-2.0 + 0.1 * math.exp(-1) - 0.03)
    in_reward = replace(loss, kl_placement="reward")
    value, _, metrics = one_token(
        in_reward,
        ratio=1.0,
        advantage=2.0,
        ref_logp_BT=vector(-1.0).reshape(1, 1),
        entropy_BT=vector(3.0).reshape(1, 1),
    )
    assert value == pytest.approx(-2.03)
    assert metrics["kl"] == pytest.approx(math.exp(-1))


@pytest.mark.parametrize("ratio_log", [-800.0, 800.0])
@pytest.mark.parametrize("advantage", [-1.0, 1.0])
def test_absurd_ratios_stay_finite(ratio_log, advantage):
    logp_BT = torch.tensor([[ratio_log]], requires_grad=True)
    output = PLAIN(
        logp_BT=logp_BT,
        old_logp_BT=torch.zeros(1, 1),
        ref_logp_BT=torch.zeros(1, 1),
        advantages_B=torch.tensor([advantage]),
        weights_BT=torch.ones(1, 1),
        mask_BT=torch.ones(1, 1),
    )
    output.loss.backward()
    assert output.loss.isfinite()
    assert logp_BT.grad.isfinite().all()


def test_gspo_by_hand():
    """The ratio of the sequence is e^mean: here mean log-ratio (0.1 + 0.3) / 2 = 0.2, the third token being masked."""
    logp_BT = torch.tensor([[0.1, 0.3, 9.0]], dtype=torch.float64, requires_grad=True)
    loss = replace(PLAIN, importance="sequence")
    mask_BT = torch.tensor([[1, 1, 0]])
    output = loss(
        logp_BT=logp_BT,
        old_logp_BT=torch.zeros(1, 3, dtype=torch.float64),
        ref_logp_BT=None,
        advantages_B=vector(2.0),
        weights_BT=SequenceMean().weights(mask_BT, totals=mini_batch_totals(mask_BT), dtype=torch.float64),
        mask_BT=mask_BT,
    )
    output.loss.backward()
    assert output.loss.item() == pytest.approx(-2.0 * math.exp(0.2))
    # d s / d logp_t = s / length for each token
    torch.testing.assert_close(logp_BT.grad, vector(-math.exp(0.2), -math.exp(0.2), 0.0).reshape(1, 3))


def test_mismatch_corrections_by_hand():
    difference = math.log(4.0)
    engine_logp_BT = vector(-difference).reshape(1, 1)  # the trainer finds the token 4 times as likely
    truncated = replace(PLAIN, mismatch=TruncatedImportanceSampling(cap=2.0))
    loss, gradient, metrics = one_token(truncated, ratio=1.0, advantage=1.0, engine_logp_BT=engine_logp_BT)
    assert (loss, gradient) == pytest.approx((-2.0, -2.0))
    assert metrics["sampling/sampling_logp_difference/mean"] == pytest.approx(difference)
    assert metrics["sampling/importance_sampling_ratio/mean"] == pytest.approx(2.0)
    masked = replace(PLAIN, mismatch=MaskedImportanceSampling(low=0.5, high=2.0))
    assert one_token(masked, ratio=1.0, advantage=1.0, engine_logp_BT=engine_logp_BT)[:2] == (0.0, 0.0)
    assert one_token(masked, ratio=1.0, advantage=1.0, engine_logp_BT=engine_logp_BT / 4)[0] == pytest.approx(
        -math.sqrt(2)
    )
    sequence = TruncatedImportanceSampling(cap=100.0, level="sequence").weights(
        old_logp_BT=torch.zeros(1, 3),
        engine_logp_BT=torch.tensor([[-1.0, -0.5, 7.0]]),
        mask_BT=torch.tensor([[1, 1, 0]]),
    )
    torch.testing.assert_close(sequence, torch.full((1, 3), math.exp(1.5)))
    with pytest.raises(ValueError, match="engine's log-probabilities"):
        one_token(truncated, ratio=1.0, advantage=1.0)


def test_the_mismatch_weight_under_top_p_is_exact_up_to_the_nuclei_by_hand():
    """Five tokens at temperature 0.5 and top_p 0.85; both keep the first three.

    engine:  0.40 0.30 0.20 | 0.06 0.04, nucleus 0.90
    trainer: 0.42 0.28 0.18 | 0.08 0.04, nucleus 0.88
    Token 1 is drawn with 0.30 / 0.90 = 1 / 3, and the trainer's own nucleus would give it 0.28 / 0.88 = 7 / 22.
    """
    engine_V, trainer_V = vector(0.40, 0.30, 0.20, 0.06, 0.04), vector(0.42, 0.28, 0.18, 0.08, 0.04)
    sampling = Sampling(temperature=0.5, top_p=0.85, max_tokens=1, seed=0)
    loss = replace(PLAIN, mismatch=TruncatedImportanceSampling(cap=2.0))
    loss.check_sampling(sampling)
    rows = 64
    sampler = TokenSampler(sampling, keys=row_keys(0, prompt_index=np.arange(rows), sample_index=np.arange(rows)))
    token_B, logprob_B = sampler.draw((0.5 * engine_V.log()).repeat(rows, 1), step=0)
    assert set(token_B.tolist()) == {0, 1, 2}
    drawn = token_B.tolist().index(1)
    weight = loss.mismatch.weights(
        old_logp_BT=trainer_V[1].log().reshape(1, 1),
        engine_logp_BT=logprob_B[drawn].reshape(1, 1),
        mask_BT=torch.ones(1, 1),
    )
    assert weight.item() == pytest.approx(0.28 / 0.30)
    assert weight.item() * 0.90 / 0.88 == pytest.approx((7 / 22) / (1 / 3))


@pytest.mark.parametrize("change", [{"top_k": 20}, {"temperature": 0.0}])
def test_mismatch_correction_refuses_what_it_has_no_weights_for(change):
    sampling = replace(Sampling(max_tokens=8), **change)
    PLAIN.check_sampling(sampling)
    with pytest.raises(ValueError, match=r"no weights under top_k or greedy decoding, got [^\n]*loss.mismatch=null$"):
        replace(PLAIN, mismatch=TruncatedImportanceSampling()).check_sampling(sampling)


def test_truncated_completions_can_be_masked():
    assert [PLAIN.counts(reason) for reason in ("length", "stop")] == [True, True]
    assert [replace(PLAIN, truncated="mask").counts(reason) for reason in ("length", "stop")] == [False, True]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clip_low": 1.5}, "clip_low"),
        ({"clip_high": -0.1}, "clip_high"),
        ({"dual_clip": 1.1}, "dual_clip"),
        ({"kl_coefficient": -1.0}, "kl_coefficient"),
        ({"kl_clamp": 0.0}, "kl_clamp"),
        ({"importance": "word"}, "importance"),
        ({"objective": "ppo"}, "objective"),
        ({"kl_estimator": "k4"}, "kl_estimator"),
        ({"kl_placement": "nowhere"}, "kl_placement"),
        ({"truncated": "drop"}, "truncated"),
    ],
)
def test_wrong_numbers_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(PLAIN, **change)


def test_missing_inputs_are_refused():
    with pytest.raises(ValueError, match="reference's log-probabilities"):
        one_token(replace(PLAIN, kl_coefficient=0.1), ratio=1.0, advantage=1.0)
    with pytest.raises(ValueError, match="entropy"):
        one_token(replace(PLAIN, entropy_coefficient=0.1), ratio=1.0, advantage=1.0)


# --- aggregation: weights by hand, and a gradient that does not know how the step was split ---


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
    leaf_NT = torch.where(mask_NT, values_NT, NAN).requires_grad_()
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


def test_equal_groups_dilute_the_mean_and_are_held_by_the_kl_like_all_others():
    """One group that teaches beside three that do not (trl#7068): the paper's KL is over all completions."""

    def gradient(rewards, *, kl):
        groups = torch.arange(len(rewards)) // 2
        mask_NT = torch.ones(len(rewards), 2)
        leaf_NT = torch.full((len(rewards), 2), -1.0, dtype=torch.float64, requires_grad=True)
        loss = replace(PLAIN, aggregation=SequenceMean(), kl_coefficient=kl)
        loss(
            logp_BT=leaf_NT,
            old_logp_BT=leaf_NT.detach(),
            ref_logp_BT=leaf_NT.detach() - 0.5,
            advantages_B=group_advantages(vector(*rewards), groups),
            weights_BT=loss.aggregation.weights(mask_NT, totals=mini_batch_totals(mask_NT), dtype=torch.float64),
            mask_BT=mask_NT,
        ).loss.backward()
        return leaf_NT.grad

    alone, among = gradient([1, 0], kl=0.0), gradient([1, 0, 1, 1, 0, 0, 1, 1], kl=0.0)
    torch.testing.assert_close(among[:2], alone / 4)
    assert not among[2:].any()
    # k3 with d = ref - logp = -0.5: its derivative is 1 - e^-0.5, for each of 16 tokens
    held = gradient([1, 0, 1, 1, 0, 0, 1, 1], kl=0.1)
    torch.testing.assert_close(held - among, torch.full((8, 2), 0.1 * (1 - math.exp(-0.5)) / 16, dtype=torch.float64))


def test_values_under_the_mask_are_never_read():
    mask_BT = torch.tensor([[1, 1, 0]])
    arguments = {"advantages_B": vector(1.0), "weights_BT": torch.full((1, 3), 0.5), "mask_BT": mask_BT}
    loss = replace(PLAIN, kl_coefficient=0.1, entropy_coefficient=0.1, mismatch=TruncatedImportanceSampling())

    def run(poison):
        leaf_BT = torch.tensor([[-1.0, -2.0, poison]], requires_grad=True)
        other_BT = torch.tensor([[-1.5, -1.0, poison]])
        output = loss(
            logp_BT=leaf_BT,
            old_logp_BT=other_BT,
            ref_logp_BT=other_BT,
            entropy_BT=leaf_BT.abs(),
            engine_logp_BT=other_BT,
            **arguments,
        )
        output.loss.backward()
        return output.loss.item(), leaf_BT.grad.tolist()

    assert run(NAN) == run(0.0) == run(-INF)


@pytest.mark.parametrize("objective", ["clip", "cispo"])
@pytest.mark.parametrize("importance", ["token", "sequence"])
def test_gradient_is_that_of_the_value_where_smooth(objective, importance):
    """On policy every variant's gradient is the plain policy gradient -A / length."""
    mask_BT = torch.ones(2, 4)
    loss = PolicyLoss(
        clip_low=0.2, clip_high=0.3, objective=objective, importance=importance, aggregation=SequenceMean()
    )
    leaf_BT = (-torch.rand(2, 4, dtype=torch.float64)).requires_grad_()
    output = loss(
        logp_BT=leaf_BT,
        old_logp_BT=leaf_BT.detach(),
        ref_logp_BT=None,
        advantages_B=vector(1.0, -3.0),
        weights_BT=SequenceMean().weights(mask_BT, totals=mini_batch_totals(mask_BT), dtype=torch.float64),
        mask_BT=mask_BT,
    )
    output.loss.backward()
    torch.testing.assert_close(leaf_BT.grad, vector(-1 / 8, 3 / 8).unsqueeze(1).expand(2, 4))
    assert output.metrics["ratio"].item() == pytest.approx(1.0)
    assert output.weight.item() == pytest.approx(1.0)
    for side in ("low", "high", "dual"):
        assert output.metrics[f"clip_ratio/{side}_mean"].item() == 0.0


@pytest.mark.skipif(not GOLDEN.exists(), reason=f"no recorded updates of the authors' code at {GOLDEN}")
def test_agrees_with_the_authors_code_and_trl():
    report = check_grpo(read_rows(GOLDEN), GOLDEN)
    assert report.passed, [result for result in report.results if result.wrong]
    assert {result.allowed for result in report.results} <= {None, "D6"}
