"""Attention dropout in the factored form: the dense formula with the same weights dropped, chunk by chunk."""

import math

import pytest
import torch
from attention_cases import build, layouts, leaves, projection
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from perceiver import Tokens
from perceiver.attention import CrossAttention
from perceiver.attention.forms.absorbed import absorb
from perceiver.attention.forms.dense import dense_weights, normalised_tokens
from perceiver.attention.forms.factored import factored_attention
from perceiver.attention.kernels import eager
from perceiver.attention.kernels import eager_dropout as dropped
from perceiver.attention.projection import TokenProjection


def every_third(weights: Tensor, dropout: float) -> Tensor:
    """A dropout that drops known weights: those of every third token, per query and sample another third."""
    rows, outer, inner = weights.shape[1:]
    token = torch.arange(outer * inner).reshape(outer, inner)
    return weights * pattern(rows, token) / (1 - dropout)


def pattern(rows: int, token: Tensor) -> Tensor:
    row = torch.arange(rows).reshape(-1, *[1] * token.ndim)
    return ((row + token) % 3 != 0).double()


def dense_with_dropout(query: Tensor, blocks: list[Tokens], weights: TokenProjection, dropout: float) -> Tensor:
    """The dense formula step by step, its attention weights dropped by the same pattern."""
    heads, rows = query.shape[1:3]
    kept = []
    for piece in dense_weights(query, blocks, weights):
        tokens = piece[0, 0, 0].numel()
        keep = pattern(heads * rows, torch.arange(tokens)).unflatten(0, (heads, rows)) / (1 - dropout)
        kept.append(piece.flatten(3) * keep)
    normed, _ = normalised_tokens(blocks, weights)
    values = weights.value(normed).unflatten(-1, (heads, -1)).transpose(1, 2)
    attention = torch.cat(kept, dim=-1)
    found = (attention != 0).any(dim=-1, keepdim=True)
    return torch.where(found, attention @ values, 0.0)


@given(layouts(offsets=(0.0,)), st.integers(1, 2), st.integers(1, 4))
@settings(max_examples=40)
def test_equals_the_dense_formula_with_the_same_weights_dropped(plan: list, heads: int, rows: int) -> None:  # type: ignore[type-arg]
    torch.manual_seed(plan[0].seed)
    blocks = build(plan)
    weights = projection(blocks[0].channels, heads)
    query = torch.randn(1, heads, rows, 2, dtype=torch.float64, requires_grad=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dropped.F, "dropout", every_third)
        out = factored_attention(query, blocks, weights, dropout=0.25)
        functional = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).reshape(out.shape)
        inputs = [query, *leaves(blocks), *weights.parameters()]
        grads = torch.autograd.grad((out * functional).sum(), inputs, allow_unused=True)
    expected = dense_with_dropout(query, blocks, weights, 0.25)
    expected_grads = torch.autograd.grad((expected * functional).sum(), inputs, allow_unused=True)
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-10)
    for grad, other in zip(grads, expected_grads, strict=True):
        if grad is not None and other is not None:
            torch.testing.assert_close(grad, other, rtol=1e-9, atol=1e-9)
        else:
            assert (grad if other is None else other) is None or not bool((grad if other is None else other).any())


@pytest.mark.parametrize("chunk", [1, 40, 2**20])
def test_backward_drops_what_forward_dropped(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eager, "CHUNK", chunk)
    parts = [torch.randn(2, 4, 5, 2).double(), torch.randn(1, 4, 1, 2).double()]
    rstd, queries = torch.rand(2, 4, 5).double() + 0.5, torch.randn(1, 3, 4).double()

    def sums(queries: Tensor, rstd: Tensor, *parts: Tensor) -> Tensor:
        torch.manual_seed(7)
        sums, _, kept = dropped.read_tokens_dropped(queries, list(parts), rstd, None, dropout=0.4)
        return torch.cat([sums, kept[..., None]], dim=-1)

    inputs = [x.requires_grad_() for x in (queries, rstd, *parts)]
    assert torch.autograd.gradcheck(sums, inputs)


def test_drops_the_stated_share_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    tokens = [Tokens(parts=(torch.randn(1, 50, 40, 3), torch.randn(1, 50, 1, 4)))]
    weights, query = projection(7, 1, torch.float32), 0.01 * torch.randn(1, 1, 64, 2)
    expected = factored_attention(query, tokens, weights)
    out = torch.stack([factored_attention(query, tokens, weights, dropout=0.3) for _ in range(20)])
    # Nearly uniform weights over 2,000 tokens: the kept share of one row has a standard deviation of sqrt(0.3 / 0.7 / 2000).
    plane_sums = dropped.read_tokens_dropped(
        absorb(query, weights).flatten(1, 2), list(tokens[0].parts), torch.ones(1, 50, 40), None, dropout=0.3
    )[2]
    assert abs(float(plane_sums.detach().mean()) - 1) < 5 * math.sqrt(0.3 / 0.7 / 2000 / 64)
    assert not torch.equal(out[0], out[1])
    torch.testing.assert_close(out.mean(dim=0), expected, rtol=0.05, atol=0.05 * float(expected.detach().abs().max()))


def test_layer_drops_in_training_only_and_reproducibly() -> None:
    attention = CrossAttention(query_channels=8, token_channels=7, dropout=0.5, attention="factored")
    tokens, latents = [Tokens(parts=(torch.randn(2, 6, 5, 3), torch.randn(1, 6, 1, 4)))], torch.randn(1, 4, 8)
    torch.manual_seed(3)
    first = attention(latents, tokens)
    torch.manual_seed(3)
    assert torch.equal(attention(latents, tokens), first)
    assert not torch.equal(attention(latents, tokens), first)
    attention.eval()
    assert torch.equal(attention(latents, tokens), attention(latents, tokens))
