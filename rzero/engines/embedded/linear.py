"""Linear layers of the fused decoder: as they are, rounded to int8, and either with adapters beside them.

Rounded layers hold weights with a scale per output channel and round activations with one per row, both symmetrically
to [-127, 127]; sums are exact integers (oneDNN's int8 product, `torch.ops.onednn.qlinear_pointwise`). Adapters act
beside them in float32: added to weights that are rounded again they would drown, since a delta is smaller than a step
of the grid.

AMX multiplies signed activations, AVX-512 VNNI unsigned ones: without AMX oneDNN has only a reference kernel for signed
ones, thousands of times slower. They are shifted by 128 there, a zero point, which changes no bit of a sum.

Shapes: W rows, I width in, O width out, K ranks of the adapters side by side.
"""

# ruff: noqa: N815 (fields carry their shape as a suffix, like every other tensor name)

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import torch
from torch import Tensor

from rzero.engines.embedded.timing import best_seconds
from rzero.engines.threads import torch_threads

_LARGEST = 127.0
_WIDE = 16384  # outputs from which a product is made some columns at a time
_COLUMNS = 8192  # then
_ZERO_POINT = 128  # flips the highest bit: int8 read as uint8
_REFERENCE = 10  # times as slow as another kernel and more: a reference kernel, whatever else the machine does
_ROUNDED_AT_ONCE = 2**19  # elements of activations, 2 MB: a core's cache holds a thread's share, and calls are few


class Linear(Protocol):
    """A product with fixed weights, and a bias where the family has one."""

    def __call__(self, x_WI: Tensor) -> Tensor:
        """Returns [W, O]."""
        ...


class Dense:
    """A copy of weights [in, out], laid out for the product."""

    def __init__(self, weight_IO: Tensor, bias_O: Tensor | None) -> None:
        self._weight_IO, self._bias_O = weight_IO.clone(memory_format=torch.contiguous_format), bias_O

    def __call__(self, x_WI: Tensor) -> Tensor:
        return x_WI @ self._weight_IO if self._bias_O is None else torch.addmm(self._bias_O, x_WI, self._weight_IO)


class Rounded:
    """Weights rounded to int8, in the order that the machine's kernel wants.

    The product of a layer wider than `_WIDE`, which is a vocabulary, is made some columns at a time and overwritten by
    the next call: fresh pages for it would take as long as the product.
    Raises ValueError for weights that hold no numbers.
    """

    def __init__(self, weight_IO: Tensor, bias_O: Tensor | None) -> None:
        largest_O = torch.maximum(weight_IO.amax(0), -weight_IO.amin(0))
        scale_O = largest_O.clamp_(min=torch.finfo(torch.float32).tiny) / _LARGEST
        if not bool(scale_O.isfinite().all()):
            raise ValueError("weights that are infinite or no numbers cannot be rounded to int8")
        self._bias_O = bias_O
        self._out = torch.empty(0)
        self._parts = [
            _Packed.of((weight_IO[:, columns] / scale_O[columns]).round_(), scale_O[columns].clone(), columns=columns)
            for columns in _slices(len(scale_O), size=_COLUMNS if len(scale_O) > _WIDE else len(scale_O))
        ]

    def __call__(self, x_WI: Tensor) -> Tensor:
        rounded_WI, scale_W1 = _rounded(x_WI)
        if _unsigned_is_faster():
            rounded_WI = _shifted(rounded_WI)
        if len(self._parts) == 1:
            product_WO = self._parts[0](rounded_WI).mul_(scale_W1)
        else:
            product_WO = self._room(len(x_WI))
            for part in self._parts:
                torch.mul(part(rounded_WI), scale_W1, out=product_WO[:, part.columns])
        return product_WO if self._bias_O is None else product_WO.add_(self._bias_O)

    def _room(self, rows: int) -> Tensor:
        """Memory [rows, O] for a product."""
        width = self._parts[-1].columns.stop
        if self._out.numel() < rows * width:
            with torch.inference_mode(mode=False):  # made while drawing, it could not be written to while verifying
                self._out = torch.empty(rows * width)
        return self._out[: rows * width].view(rows, width)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class _Packed:
    """Some columns of rounded weights; U of them."""

    columns: slice
    weight: Tensor
    scale_U: Tensor
    zero_U: Tensor

    @classmethod
    def of(cls, weight_IU: Tensor, scale_U: Tensor, *, columns: slice) -> _Packed:
        """Packs whole numbers in [-127, 127] that stand for `scale_U` each."""
        return cls(
            columns=columns,
            weight=torch.ops.onednn.qlinear_prepack(weight_IU.to(torch.int8).t().contiguous(), None),
            scale_U=scale_U,
            zero_U=torch.zeros(len(scale_U), dtype=torch.long),
        )

    def __call__(self, rounded_WI: Tensor) -> Tensor:
        """Returns the product with activations in int8, or in uint8 when they are shifted by `_ZERO_POINT`."""
        zero = _ZERO_POINT if rounded_WI.dtype == torch.uint8 else 0
        sums_WU: Tensor = torch.ops.onednn.qlinear_pointwise(
            rounded_WI, 1.0, zero, self.weight, self.scale_U, self.zero_U, None, 1.0, 0, torch.float32, "none", [], ""
        )
        return sums_WU


def _rounded(x_WI: Tensor) -> tuple[Tensor, Tensor]:
    """Returns activations in int8, and the step of each row [W, 1]."""
    rows, width = x_WI.shape
    rounded_WI = torch.empty(rows, width, dtype=torch.int8)
    scale_W1 = x_WI.new_empty(rows, 1)
    for part in _slices(rows, size=max(1, _ROUNDED_AT_ONCE // width)):
        x_UI = x_WI[part]
        step_U1 = x_UI.abs().amax(-1, keepdim=True).clamp_(min=torch.finfo(torch.float32).tiny).div_(_LARGEST)
        rounded_WI[part] = (x_UI / step_U1).round_()
        scale_W1[part] = step_U1
    return rounded_WI, scale_W1


def _shifted(rounded_WI: Tensor) -> Tensor:
    """Returns the same memory as uint8, every number larger by `_ZERO_POINT`."""
    return rounded_WI.view(torch.uint8).bitwise_xor_(_ZERO_POINT)


@cache
def _unsigned_is_faster() -> bool:
    """Returns whether this machine's kernel for signed activations is not worth its name: measured, once a process.

    Never where unsigned ones make other sums: in kernels for old CPUs two products together overflow 16 bits.
    """
    packed = _Packed.of(torch.full((256, 256), _LARGEST), torch.ones(256), columns=slice(256))
    signed_WI = torch.full((16, 256), int(_LARGEST), dtype=torch.int8)
    unsigned_WI = _shifted(signed_WI.clone())
    if not torch.equal(packed(signed_WI), packed(unsigned_WI)):
        return False
    with torch_threads(1):  # several wait for each other on a busy machine, as long as a reference kernel takes
        return best_seconds(lambda: packed(signed_WI)) > _REFERENCE * best_seconds(lambda: packed(unsigned_WI))


def int8_product(rows: int, width: int) -> Callable[[], Tensor]:
    """Returns a product [rows, width] x [width, width] by the kernel that rounded layers take here, to be timed."""
    packed = _Packed.of(torch.ones(width, width), torch.ones(width), columns=slice(width))
    x_WI = torch.ones(rows, width, dtype=torch.int8)
    if _unsigned_is_faster():
        x_WI = _shifted(x_WI)
    return lambda: packed(x_WI)


def _slices(total: int, *, size: int) -> list[slice]:
    return [slice(start, min(start + size, total)) for start in range(0, total, size)]


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
        return self.below(x_WI).addmm_(x_WI @ self.down_IK, self.up_KO)
