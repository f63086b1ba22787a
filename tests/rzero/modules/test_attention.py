"""Attention as products against torch's fused kernel."""

from collections.abc import Iterator

import pytest
import torch

from rzero.modules.attention import MOST_SCORES, attention


@pytest.fixture
def rounding() -> Iterator[None]:
    """Products may round their factors to bfloat16."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    yield
    torch.set_float32_matmul_precision(before)


def tensors(*, sequences: int = 3, queries: int = 5, keys: int = 9, double: bool = False) -> list[torch.Tensor]:
    """Queries of six heads, keys and values of two."""
    draw = torch.Generator().manual_seed(0)
    sizes = [(6, queries), (2, keys), (2, keys)]
    dtype = torch.float64 if double else torch.float32
    return [torch.randn(sequences, *size, 8, generator=draw).to(dtype).requires_grad_() for size in sizes]


def answer(given: list[torch.Tensor], visible: torch.Tensor | None, scale: float | None) -> list[torch.Tensor]:
    """The attention and the gradients of a weighted sum of it."""
    out = attention(*given, visible_R1QK=visible, dropout=0.0, scale=scale)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out.dtype)
    return [out.detach(), *torch.autograd.grad((out * weights).sum(), given)]


@pytest.mark.usefixtures("rounding")
@pytest.mark.parametrize("scale", [None, 0.2])
@pytest.mark.parametrize("masked", [True, False])
def test_products_give_what_the_fused_kernel_gives(masked: bool, scale: float | None) -> None:
    keys = 9 if masked else 5
    visible = torch.rand(3, 1, 5, keys, generator=torch.Generator().manual_seed(2)) < 0.5
    visible[..., 0] = True
    mask = visible if masked else None
    got = answer(tensors(keys=keys), mask, scale)
    exact = answer(tensors(keys=keys, double=True), mask, scale)  # float64 goes through the fused kernel
    for mine, fused in zip(got, exact, strict=True):
        torch.testing.assert_close(mine.double(), fused, atol=0.02 * float(fused.abs().max()), rtol=0)


@pytest.mark.usefixtures("rounding")
def test_what_a_query_does_not_see_has_no_effect_at_all() -> None:
    query, key, value = tensors()
    visible = torch.ones(3, 1, 5, 9, dtype=torch.bool)
    visible[..., 4] = False
    changed = [key.detach().clone(), value.detach().clone()]
    for tensor in changed:
        tensor[:, :, 4] = 100.0
    mine = attention(query, key, value, visible_R1QK=visible, dropout=0.0, scale=None)
    assert torch.equal(mine, attention(query, *changed, visible_R1QK=visible, dropout=0.0, scale=None))


@pytest.mark.parametrize(
    ("precision", "queries"), [("highest", 5), ("high", 5), ("medium", MOST_SCORES // 12 // 9 + 1)]
)
def test_without_leave_to_round_or_with_too_many_scores_the_fused_kernel_is_asked(
    monkeypatch: pytest.MonkeyPatch, precision: str, queries: int
) -> None:
    asked = []
    monkeypatch.setattr("torch.get_float32_matmul_precision", lambda: precision)
    monkeypatch.setattr(
        "rzero.modules.attention.F.scaled_dot_product_attention", lambda query, *_, **options: asked.append(options)
    )
    query, key, value = tensors(sequences=2, queries=queries)
    attention(query, key, value, visible_R1QK=None, dropout=0.0, scale=0.5)
    assert asked == [{"attn_mask": None, "is_causal": True, "dropout_p": 0.0, "scale": 0.5}]


@pytest.mark.usefixtures("rounding")
def test_with_leave_to_round_it_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("rzero.modules.attention.F.scaled_dot_product_attention")
    attention(*tensors(), visible_R1QK=torch.ones(3, 1, 5, 9, dtype=torch.bool), dropout=0.0, scale=None)
