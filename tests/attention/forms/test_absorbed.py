"""SDPA with absorbed projections against the dense formula: outputs, every gradient, masks, precision."""

import torch
from attention_cases import Layout, check_in_float32, check_in_float64, layouts, projection, run
from hypothesis import given, settings
from hypothesis import strategies as st

from perceiver import Tokens
from perceiver.attention.forms.absorbed import absorbed_attention
from perceiver.attention.forms.dense import dense_attention
from perceiver.attention.forms.factored import factored_attention
from perceiver.attention.projection import TokenProjection


@given(layouts(offsets=(0.0, 3.0)), st.integers(1, 3), st.integers(1, 5), st.booleans())
@settings(max_examples=40)
def test_equals_the_dense_formula_in_float64(plan: list[Layout], heads: int, rows: int, shared: bool) -> None:
    check_in_float64(absorbed_attention, plan, heads=heads, rows=rows, shared=shared)


@given(layouts(), st.integers(1, 2), st.integers(1, 4))
@settings(max_examples=12)
def test_float32_is_as_accurate_as_the_dense_form(plan: list[Layout], heads: int, rows: int) -> None:
    check_in_float32(absorbed_attention, plan, heads=heads, rows=rows)


def test_sample_without_valid_token_reads_zeros() -> None:
    mask = torch.ones(2, 4, 5, dtype=torch.bool)
    mask[1] = False
    tokens = [Tokens(parts=(torch.randn(2, 4, 5, 3), torch.randn(1, 4, 1, 4)), mask=mask)]
    out = absorbed_attention(torch.randn(1, 2, 3, 2), tokens, projection(7, 2, torch.float32))
    assert torch.equal(out[1], torch.zeros_like(out[1]))
    assert bool((out[0] != 0).all())


@torch.no_grad()
def test_bfloat16_autocast_stays_close() -> None:
    tokens = [Tokens(parts=(torch.randn(2, 40, 16),))]
    weights, query = projection(16, 2, torch.float32), torch.randn(2, 2, 3, 2)
    expected = absorbed_attention(query, tokens, weights)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = absorbed_attention(query, tokens, weights)
    assert bool(out.isfinite().all())
    torch.testing.assert_close(out.float(), expected, rtol=0.1, atol=0.1 * float(expected.abs().max()))


def test_wide_uneven_products_are_exact() -> None:
    content, rows = (torch.randn(shape).double().requires_grad_() for shape in ((2, 5, 4, 3), (1, 5, 1, 256)))
    tokens = [Tokens(parts=(content, rows))]
    for heads in (1, 7):
        weights = TokenProjection(token_channels=259, qk_channels=259, v_channels=7 * 37).double()
        query = torch.randn(2, heads, 3, 259 // heads).double().requires_grad_()
        expected, expected_grads = run(dense_attention, query, tokens, weights)
        for form in (absorbed_attention, factored_attention):
            out, grads = run(form, query, tokens, weights)
            torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-10)
            for grad, other in zip(grads, expected_grads, strict=True):
                torch.testing.assert_close(grad, other, rtol=1e-9, atol=1e-9)
