"""Linear layers of the fused decoder: as they are, rounded to int8, and either with adapters beside them.

Rounded layers hold weights with a scale per output channel and round activations with one per row, both symmetrically
to [-127, 127]; sums are exact integers (oneDNN's int8 product, `torch.ops.onednn.qlinear_pointwise`). Adapters act
beside them in float32: added to weights that are rounded again they would drown, since a delta is smaller than a step
of the grid.

Shapes: W rows, I width in, O width out, K ranks of the adapters side by side.
"""

# ruff: noqa: N815 (fields carry their shape as a suffix, like every other tensor name)

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Protocol

import torch
from torch import Tensor

_LARGEST = 127.0
_AT_ONCE = 8192
"""Output channels that are rounded together."""


class Linear(Protocol):
    """A product with fixed weights, and a bias where the family has one."""

    def __call__(self, x_WI: Tensor) -> Tensor:
        """Returns [W, O]."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Dense:
    """Weights [in, out] as they are."""

    weight_IO: Tensor
    bias_O: Tensor | None

    def __call__(self, x_WI: Tensor) -> Tensor:
        return x_WI @ self.weight_IO if self.bias_O is None else torch.addmm(self.bias_O, x_WI, self.weight_IO)


class Rounded:
    """Weights rounded to int8, in the order that the machine's kernel wants.

    Raises ValueError for weights that hold no numbers.
    """

    def __init__(self, weight_IO: Tensor, bias_O: Tensor | None) -> None:
        largest_O = torch.maximum(weight_IO.amax(0), -weight_IO.amin(0))
        scale_O = largest_O.clamp_(min=torch.finfo(torch.float32).tiny) / _LARGEST
        if not bool(scale_O.isfinite().all()):
            raise ValueError("weights that are infinite or no numbers cannot be rounded to int8")
        rounded_OI = torch.empty(weight_IO.shape[1], weight_IO.shape[0], dtype=torch.int8)
        for first in range(0, len(rounded_OI), _AT_ONCE):  # an output layer would take a GiB on the way
            outputs = slice(first, first + _AT_ONCE)
            rounded_OI[outputs] = (weight_IO[:, outputs] / scale_O[outputs]).round_().t()
        self._bias_O = bias_O
        self._scale_O = scale_O
        self._zero_O = torch.zeros(len(scale_O), dtype=torch.long)
        self._packed = torch.ops.onednn.qlinear_prepack(rounded_OI, None)

    def __call__(self, x_WI: Tensor) -> Tensor:
        scale_W1 = x_WI.abs().amax(-1, keepdim=True).clamp_(min=torch.finfo(torch.float32).tiny).div_(_LARGEST)
        rounded_WI = (x_WI / scale_W1).round_().to(torch.int8)
        sums_WO = torch.ops.onednn.qlinear_pointwise(
            rounded_WI, 1.0, 0, self._packed, self._scale_O, self._zero_O, None, 1.0, 0, torch.float32, "none", [], ""
        )
        product_WO: Tensor = sums_WO.mul_(scale_W1)
        return product_WO if self._bias_O is None else product_WO.add_(self._bias_O)


@cache
def exact_products() -> bool:
    """Returns whether sums of int8 products are exact here: kernels for old CPUs saturate at 16 bits."""
    if not torch.backends.mkldnn.is_available():
        return False
    weight_IO, x_WI = torch.ones(256, 8), torch.ones(2, 256)
    weight_IO[:, ::2] = -1.0
    return torch.allclose(Rounded(weight_IO, None)(x_WI), x_WI @ weight_IO)


@dataclass(frozen=True, slots=True, eq=False)
class Adapted:
    """Another layer with low-rank adapters beside it; several that share an input stand side by side."""

    below: Linear
    down_IK: Tensor
    up_KO: Tensor

    def __call__(self, x_WI: Tensor) -> Tensor:
        return torch.addmm(self.below(x_WI), x_WI @ self.down_IK, self.up_KO)
