"""What corrects for an engine that draws from other probabilities, against values worked out by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from rzero.engines.sampling import TokenSampler, row_keys
from rzero.grpo import MaskedImportanceSampling, TruncatedImportanceSampling
from rzero.types import Sampling
from tests.rzero.one_token import PLAIN, one_token, vector


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
