"""The policy loss of a single token, and vectors in double precision, to hold against values worked out by hand."""

import math

import torch

from rzero.grpo import PolicyLoss, TokenMean

PLAIN = PolicyLoss(clip_low=0.2, clip_high=0.3, aggregation=TokenMean())


def vector(*values):
    return torch.tensor(values, dtype=torch.float64)


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
