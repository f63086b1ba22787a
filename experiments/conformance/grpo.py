"""Advantages, losses and gradients against the authors' code and TRL, both run on recorded log-probabilities.

The arrays lie beside the rows, in the `.npz` of the same stem. What is compared, and how closely:

* float64: 1e-9, but 1e-7 (gradients 1e-9) where the authors' KL enters, which they compute in float32 even then, and
  their clip fractions, which they average in float32.
* float32: 2e-6, the rounding of sums over a few hundred tokens.
* Their float32 advantages of groups with equal rewards are rounding noise over 1e-6 (docs/authors_code.md, D6), where
  ours are exactly 0. Losses and gradients are therefore computed from the recorded advantages.
"""
# ruff: noqa: N815 - a record's fields carry the shape suffix too

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from experiments.conformance.rows import Report, RowResult, tracked
from rzero.grpo import (
    Aggregation,
    ConstantLength,
    LossOutput,
    MicroBatchMean,
    PolicyLoss,
    SequenceMean,
    TokenMean,
    group_advantages,
    kl_divergence,
    mini_batch_totals,
)
from rzero.types import Json

EXACT, FLOAT32 = 1e-9, 2e-6
EQUAL_GROUPS = "D6"


class Comparison(NamedTuple):
    """One number or array of a row, ours and theirs, and how far they may lie apart."""

    name: str
    ours: Any
    theirs: Any
    tolerance: float

    @property
    def distance(self) -> float:
        """Largest absolute difference; NaN when a number is missing or not finite on one side only."""
        ours, theirs = np.asarray(self.ours, dtype=np.float64), np.asarray(self.theirs, dtype=np.float64)
        return float(np.abs(ours - theirs).max(initial=0.0)) if ours.shape == theirs.shape else float("nan")

    @property
    def close(self) -> bool:
        return self.distance <= self.tolerance


class Inputs(NamedTuple):
    """One row in one precision."""

    rewards_B: Tensor
    group_B: Tensor
    advantages_B: Tensor
    logp_BT: Tensor
    old_logp_BT: Tensor
    ref_logp_BT: Tensor
    mask_BT: Tensor

    @property
    def double(self) -> bool:
        return self.logp_BT.dtype == torch.float64


def check_grpo(rows: list[Json], path: Path) -> Report:
    """Compare every row of a golden `grpo` file, in both precisions."""
    worst: dict[str, float] = {}
    with np.load(path.with_suffix(".npz")) as arrays:
        results = [_check(row, arrays, worst) for row in tracked(rows, title="grpo")]
    return Report(results, note="largest differences: " + ", ".join(f"{k} {v:.1e}" for k, v in worst.items()))


def _check(row: Json, arrays: Mapping[str, np.ndarray], worst: dict[str, float]) -> RowResult:
    wrong, noise = [], []
    for precision in ("f64", "f32"):
        inputs = _inputs(arrays, row["id"], precision)
        recorded = row["results"][precision]
        checks = [
            *_advantages(inputs, arrays, f"{row['id']}_{precision}"),
            *_official(inputs, recorded["official"], arrays, f"{row['id']}_{precision}"),
            *_trl(inputs, recorded["trl"], arrays, f"{row['id']}_{precision}"),
        ]
        for check in checks:
            if check.name.startswith("equal group"):
                noise += [] if check.close else [f"{precision} {check.name} {check.distance:.2g}"]
                continue
            kind = f"{precision} {check.name.split(' ')[0]}"
            worst[kind] = max(worst.get(kind, 0.0), check.distance)
            if not check.close:
                wrong.append(f"{precision} {check.name}: off by {check.distance:.3g} (allowed {check.tolerance:.0e})")
    if wrong:
        return RowResult(row["id"], agree=False, why="; ".join(wrong))
    return RowResult(row["id"], agree=not noise, allowed=EQUAL_GROUPS if noise else None, why="; ".join(noise))


def _inputs(arrays: Mapping[str, np.ndarray], name: str, precision: str) -> Inputs:
    def tensor(field: str) -> Tensor:
        return torch.from_numpy(arrays[f"{name}_{precision}_{field}"])

    return Inputs(
        rewards_B=tensor("rewards"),
        group_B=torch.from_numpy(arrays[f"{name}_group"]),
        advantages_B=tensor("advantages"),
        logp_BT=tensor("logp"),
        old_logp_BT=tensor("old_logp"),
        ref_logp_BT=tensor("ref_logp"),
        mask_BT=torch.from_numpy(arrays[f"{name}_mask"]) != 0,
    )


def _advantages(inputs: Inputs, arrays: Mapping[str, np.ndarray], prefix: str) -> Iterator[Comparison]:
    """Ours are computed in float64 whatever the input, so float32 differs in its last digits only."""
    tolerance = EXACT if inputs.double else FLOAT32
    equal_B = torch.tensor(
        [inputs.rewards_B[inputs.group_B == group].unique().numel() == 1 for group in inputs.group_B.tolist()]
    )
    for field, eps in (("advantages", 1e-6), ("trl_advantages", 1e-4)):
        ours_B = group_advantages(
            inputs.rewards_B, inputs.group_B, eps=eps, equal_within=0.0, dtype=inputs.logp_BT.dtype
        )
        theirs_B = torch.from_numpy(arrays[f"{prefix}_{field}"])
        yield Comparison(field, ours_B[~equal_B], theirs_B[~equal_B], tolerance)
        yield Comparison(f"{field} of equal groups", ours_B[equal_B], torch.zeros(int(equal_B.sum())), 0.0)
        yield Comparison(f"equal group {field}", ours_B[equal_B], theirs_B[equal_B], tolerance)


def _official(inputs: Inputs, recorded: Json, arrays: Mapping[str, np.ndarray], prefix: str) -> Iterator[Comparison]:
    """The authors' update with micro-batches of 1, of 2 and of everything; the fields are means over micro-batches."""
    kl_BT = kl_divergence(inputs.logp_BT.float(), inputs.ref_logp_BT.float(), estimator="k3", clamp=10.0)
    yield Comparison("kl_token", kl_BT, arrays[f"{prefix}_kl_token"], FLOAT32)
    for name, size in (("micro1", 1), ("micro2", 2), ("microB", len(inputs.mask_BT))):
        output, gradient_BT = _loss(inputs, MicroBatchMean(size=size), dual_clip=3.0, kl_clamp=10.0)
        metrics, theirs = output.metrics, recorded[name]
        clipped = metrics["clip_ratio/low_mean"] + metrics["clip_ratio/high_mean"]
        exact, rounded = (EXACT, 1e-7) if inputs.double else (FLOAT32, FLOAT32)
        yield Comparison(f"loss {name}", output.loss.detach(), theirs["total"], rounded)
        yield Comparison(f"policy_loss {name}", metrics["policy_loss"], theirs["pg_loss"], exact)
        yield Comparison(f"ppo_kl {name}", metrics["ppo_kl"], theirs["ppo_kl"], exact)
        yield Comparison(f"kl {name}", metrics["kl"], theirs["kl"], FLOAT32)
        yield Comparison(f"clip_fraction {name}", clipped, theirs["clipfrac_higher"], rounded)
        yield Comparison(f"dual_fraction {name}", metrics["clip_ratio/dual_mean"], theirs["clipfrac_lower"], rounded)
        yield Comparison(f"gradient {name}", gradient_BT, arrays[f"{prefix}_grad_official_{name}"], exact)


def _trl(
    inputs: Inputs, recorded: Mapping[str, float], arrays: Mapping[str, np.ndarray], prefix: str
) -> Iterator[Comparison]:
    """TRL's loss types, micro-batch sizes and two-sided clip. TRL does not clamp the KL."""
    batch, width = inputs.mask_BT.shape
    tolerance = EXACT if inputs.double else FLOAT32
    for key, theirs in recorded.items():
        loss_type, micro, delta = key.split("|")
        size = {"micro1": 1, "micro2": 2, "microB": batch}[micro]
        aggregations: dict[str, Aggregation] = {
            "grpo": SequenceMean(),
            "bnpo": MicroBatchMean(size=size),
            "dr_grpo": ConstantLength(max_tokens=width),
            "dapo": TokenMean(),
        }
        dual_clip = None if delta == "delta=none" else float(delta.removeprefix("delta="))
        output, gradient_BT = _loss(inputs, aggregations[loss_type], dual_clip=dual_clip, kl_clamp=float("inf"))
        yield Comparison(f"trl_loss {key}", output.loss.detach(), theirs, tolerance)
        field = f"{prefix}_grad_trl_{loss_type}_{micro}_{delta.replace('=', '')}"
        if field in arrays:  # recorded for some of the combinations only
            yield Comparison(f"trl_gradient {key}", gradient_BT, arrays[field], tolerance)


def _loss(
    inputs: Inputs, aggregation: Aggregation, *, dual_clip: float | None, kl_clamp: float
) -> tuple[LossOutput, Tensor]:
    loss = PolicyLoss(
        clip_low=0.2,
        clip_high=0.3,
        dual_clip=dual_clip,
        kl_coefficient=0.01,
        kl_clamp=kl_clamp,
        aggregation=aggregation,
    )
    leaf_BT = inputs.logp_BT.clone().requires_grad_()
    totals = mini_batch_totals(inputs.mask_BT)
    output = loss(
        logp_BT=leaf_BT,
        old_logp_BT=inputs.old_logp_BT,
        ref_logp_BT=inputs.ref_logp_BT,
        advantages_B=inputs.advantages_B,
        weights_BT=aggregation.weights(inputs.mask_BT, totals=totals, dtype=leaf_BT.dtype),
        mask_BT=inputs.mask_BT,
    )
    (gradient_BT,) = torch.autograd.grad(output.loss, leaf_BT)
    return output, gradient_BT
