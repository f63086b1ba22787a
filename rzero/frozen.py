"""Linear layers whose weights adapters leave as they are, in bfloat16 where the rounding that a user allows pays by it.

`matmul_precision=medium` lets products of float32 matrices take bfloat16 factors. oneDNN does so with AMX alone: a CPU
that has AVX512-BF16 and no AMX, such as AMD's Zen 4, goes on in float32, at half the speed that it has for matrices in
bfloat16. There factors and product are rounded here, which costs a thirtieth of the product.

Shapes: T tokens, I width in, O width out.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rzero.processes.cpu import only_bfloat16_matrices_are_fast


class FrozenLinear(nn.Linear):
    """A linear layer that holds another one's weights, which nobody trains."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
        self.weight, self.bias = layer.weight, layer.bias

    def forward(self, input: Tensor) -> Tensor:  # the name is torch's
        if not self._halves(input):
            return F.linear(input, self.weight, self.bias)
        product: Tensor = _Product.apply(input, self.weight)
        return product if self.bias is None else product + self.bias

    def _halves(self, given: Tensor) -> bool:
        return (
            given.device.type == "cpu"
            and given.dtype == self.weight.dtype == torch.float32
            and not self.weight.requires_grad
            and torch.get_float32_matmul_precision() == "medium"
            and only_bfloat16_matrices_are_fast()
        )


class _Product(torch.autograd.Function):
    """x w^T by bfloat16 matrices, and what its gradient says of x."""

    @staticmethod
    def forward(ctx: Any, x_TI: Tensor, weight_OI: Tensor) -> Tensor:
        ctx.save_for_backward(weight_OI)
        return F.linear(x_TI.bfloat16(), weight_OI.bfloat16()).to(x_TI.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        [gradient_TO] = gradients
        [weight_OI] = ctx.saved_tensors
        return (gradient_TO.bfloat16() @ weight_OI.bfloat16()).to(gradient_TO.dtype), None
