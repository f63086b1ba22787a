"""Distributions of drawn tokens, and the counter-based random numbers behind them."""

import numpy as np
import pytest
import torch

from rzero.engines.sampling import (
    TokenSampler,
    _invert_in_blocks,
    _weights_in_blocks,
    invert_cdf,
    row_keys,
    uniforms,
)
from rzero.types import Sampling

ROWS = 40_000
PROBABILITIES = torch.tensor([0.02, 0.4, 0.1, 0.3, 0.1, 0.05, 0.03])


def keys(rows=ROWS, *, seed=0):
    return row_keys(seed, prompt_index=np.arange(rows), sample_index=np.zeros(rows, dtype=np.int64))


def draw(probabilities=PROBABILITIES, *, step=0, **options):
    sampling = Sampling(max_tokens=1, **options)
    logits_BV = (probabilities.log() + 3.0).expand(ROWS, -1).clone()
    return TokenSampler(sampling, keys=keys()).draw(logits_BV, step=step)


def shares(token_B):
    return torch.bincount(token_B, minlength=len(PROBABILITIES)) / ROWS


def expected(weights):
    return weights / weights.sum()


def close(measured, wanted):
    return torch.allclose(measured, wanted, atol=4 * (0.25 / ROWS) ** 0.5)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_plain_sampling(temperature):
    token_B, logprob_B = draw(temperature=temperature)
    wanted = expected(PROBABILITIES ** (1 / temperature))
    assert close(shares(token_B), wanted)
    assert torch.allclose(logprob_B, wanted.log()[token_B], atol=1e-5)


@pytest.mark.parametrize(
    ("options", "allowed"),
    [
        ({"top_p": 0.69}, [1, 3]),
        ({"top_p": 0.75}, [1, 2, 3]),  # 2 and 4 are equally likely: the lower id comes first
        ({"top_p": 0.85}, [1, 2, 3, 4]),
        ({"top_p": 0.999}, [0, 1, 2, 3, 4, 5, 6]),
        ({"top_p": 1e-6}, [1]),
        ({"top_k": 1}, [1]),
        ({"top_k": 2}, [1, 3]),
        ({"top_k": 100}, [0, 1, 2, 3, 4, 5, 6]),
        ({"top_k": 2, "top_p": 0.5}, [1]),  # of what top-k left, the first token holds 0.57
        ({"top_k": 2, "top_p": 0.6}, [1, 3]),
    ],
)
def test_truncation(options, allowed):
    token_B, logprob_B = draw(**options)
    weights = torch.zeros_like(PROBABILITIES)
    weights[allowed] = PROBABILITIES[allowed]
    assert close(shares(token_B), expected(weights))
    assert set(token_B.tolist()) <= set(allowed)
    # The log-prob is that of the untruncated distribution.
    assert torch.allclose(logprob_B, PROBABILITIES.log()[token_B], atol=1e-5)


def test_greedy():
    token_B, logprob_B = draw(temperature=0)
    assert set(token_B.tolist()) == {1}
    assert torch.allclose(logprob_B, PROBABILITIES[1].log())


def test_top_k_and_a_broad_distribution():
    token_B, _ = draw(torch.full((500,), 1 / 500), top_p=0.5)
    assert len(set(token_B.tolist())) == 250


def test_steps_and_rows_draw_different_numbers():
    first, second = draw(step=0)[0], draw(step=1)[0]
    agreement = (first == second).float().mean()
    assert abs(agreement - PROBABILITIES.square().sum()) < 0.02


def test_uniforms_are_uniform_and_reproducible():
    drawn = np.stack([uniforms(keys(2000), step=step, attempt=0) for step in range(50)])
    assert drawn.dtype == np.float32
    assert 0 <= drawn.min() < drawn.max() < 1
    assert abs(drawn.mean() - 0.5) < 0.005
    assert abs(drawn.std() - 12**-0.5) < 0.005
    assert abs(np.corrcoef(drawn[:-1].ravel(), drawn[1:].ravel())[0, 1]) < 0.02
    assert abs(np.corrcoef(drawn[:, :-1].ravel(), drawn[:, 1:].ravel())[0, 1]) < 0.02
    assert np.array_equal(drawn[7], uniforms(keys(2000), step=7, attempt=0))
    assert not np.array_equal(drawn[7], uniforms(keys(2000), step=7, attempt=1))
    assert not np.array_equal(drawn[7], uniforms(keys(2000, seed=1), step=7, attempt=0))


def test_keys_tell_prompts_samples_and_seeds_apart():
    index = np.arange(30)
    prompt_index, sample_index = (grid.ravel() for grid in np.meshgrid(index, index))
    all_keys = [row_keys(seed, prompt_index=prompt_index, sample_index=sample_index) for seed in (-1, 0, 1, 2**70)]
    assert len(np.unique(np.concatenate(all_keys[:3]))) == 3 * 900
    assert np.array_equal(all_keys[1], all_keys[3])  # seeds count modulo 2**64


def test_the_extremes_of_the_uniform_never_pick_an_impossible_token():
    cdf = torch.tensor([[0.0, 0.0, 0.3, 0.3, 1.0, 1.0]])
    assert invert_cdf(cdf, torch.tensor([0.0])).item() == 2
    assert invert_cdf(cdf, torch.tensor([1 - 2**-24])).item() == 4
    assert invert_cdf(cdf, torch.tensor([1.0])).item() == 4


def test_keep_takes_the_keys_along():
    sampler = TokenSampler(Sampling(max_tokens=1), keys=keys(10))
    logits_BV = torch.zeros(10, 1000)
    whole, _ = sampler.draw(logits_BV.clone(), step=3)
    sampler.keep(np.array([2, 7]))
    part, _ = sampler.draw(logits_BV[:2].clone(), step=3)
    assert part.tolist() == whole[[2, 7]].tolist()


def test_blocks_of_a_large_vocabulary_draw_what_one_sum_over_it_draws():
    """Sums round differently, so a uniform next to a border may fall on its other side: one in 10,000 at most."""
    generator = torch.Generator().manual_seed(0)
    weights_BV = (5 * torch.randn(400, 20_001, generator=generator)).sub_(20).exp()
    weights_BV[:, ::3] = 0.0
    logits_BV = weights_BV.log()
    uniform_B = torch.rand(400, generator=generator)
    uniform_B[:2] = torch.tensor([0.0, 1 - 2.0**-24])
    again_BV, sums_BN = _weights_in_blocks(logits_BV.clone())
    assert torch.allclose(again_BV, (logits_BV - logits_BV.amax(-1, keepdim=True)).exp())
    assert torch.allclose(sums_BN.sum(-1), again_BV.sum(-1))
    drawn_B = _invert_in_blocks(again_BV, sums_BN, uniform_B)
    assert (again_BV.gather(1, drawn_B[:, None]) > 0).all()
    expected_B = invert_cdf(again_BV.double().cumsum(-1), uniform_B)
    assert (drawn_B != expected_B).sum() <= 1


@pytest.mark.parametrize("options", [{}, {"top_p": 0.75}, {"top_k": 2}, {"temperature": 0.5}])
def test_a_large_vocabulary_is_drawn_from_alike(options):
    small_B, small_logprob_B = draw(**options)
    padded = torch.cat([PROBABILITIES, torch.zeros(20_000 - len(PROBABILITIES))])
    few = 2_000
    sampler = TokenSampler(Sampling(max_tokens=1, **options), keys=keys(few))
    token_B, logprob_B = sampler.draw((padded.log() + 3.0).expand(few, -1).clone(), step=0)
    same_B = token_B == small_B[:few]
    assert same_B.float().mean() > 0.999
    assert torch.allclose(logprob_B[same_B], small_logprob_B[:few][same_B], atol=1e-5)
