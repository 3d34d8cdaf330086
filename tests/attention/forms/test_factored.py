"""The factored form against the dense formula in float64: outputs, every gradient, masks, offsets, precision."""

from functools import partial

import pytest
import torch
from attention_cases import Layout, build, check_in_float32, check_in_float64, converted, layouts, projection, run
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from warm_process import python

from perceiver import Fourier, Tokens
from perceiver.attention import CrossAttention
from perceiver.attention.forms.dense import dense_attention, dense_weights
from perceiver.attention.forms.factored import collapse, factored_attention, factored_shares
from perceiver.attention.kernels import eager as eager_module
from perceiver.attention.kernels import native
from perceiver.attention.kernels.eager import read_tokens
from perceiver.tokens.positions import grid_coordinates


@given(layouts(offsets=(0.0, 3.0)), st.integers(1, 3), st.integers(1, 5), st.booleans())
@settings(max_examples=150)
def test_equals_the_dense_formula_in_float64(plan: list[Layout], heads: int, rows: int, shared: bool) -> None:
    check_in_float64(factored_attention, plan, heads=heads, rows=rows, shared=shared)


@given(layouts(), st.integers(1, 2), st.integers(1, 4))
@settings(max_examples=25)
def test_float32_is_as_accurate_as_the_dense_form(plan: list[Layout], heads: int, rows: int) -> None:
    check_in_float32(factored_attention, plan, heads=heads, rows=rows)


def test_large_offset_of_all_parts_costs_no_accuracy() -> None:
    weights = projection(7, 1)
    content, rows = torch.randn(2, 9, 8, 3), torch.randn(1, 9, 1, 4)
    query = torch.randn(1, 1, 5, 2)
    moved = [Tokens(parts=((content + 1e4), (rows + 1e4)))]
    exact = dense_attention(query.double(), converted(moved, torch.float64), weights)
    out = factored_attention(query, moved, weights.float())
    assert (out - exact).abs().max() < 5e-6 * exact.abs().max()


@pytest.mark.parametrize("chunk", [1, 7, 64, 2**20])
def test_chunks_of_any_size_give_the_same(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = [Tokens(parts=(torch.randn(5, 4, 6, 2), torch.randn(1, 4, 1, 3), torch.randn(1, 1, 1, 2)))]
    for part in tokens[0].parts:
        part.requires_grad_()
    weights, query = projection(7, 2, torch.float32), torch.randn(5, 2, 3, 2, requires_grad=True)
    form = partial(factored_attention, kernel=eager_module.KERNEL)
    expected, expected_grads = run(form, query, tokens, weights)
    monkeypatch.setattr(eager_module, "CHUNK", chunk)
    out, grads = run(form, query, tokens, weights)
    torch.testing.assert_close(out, expected)
    for grad, other in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(grad, other, rtol=1e-4, atol=1e-4)


def test_gradcheck() -> None:
    parts = (torch.randn(2, 3, 2, 2), torch.randn(1, 3, 1, 2), torch.randn(2, 1, 2, 1), torch.randn(1, 1, 1, 1))
    mask = torch.tensor([[[True, False], [True, True], [False, True]], [[False] * 2] * 3])
    rstd = torch.rand(2, 3, 2).add(0.5).double().requires_grad_()
    queries = torch.randn(2, 3, 6).double().requires_grad_()
    leaf_parts = [part.double().requires_grad_() for part in parts]

    def sums_of_found_rows(queries: Tensor, rstd: Tensor, *parts: Tensor) -> Tensor:
        sums, lse = read_tokens(queries, list(parts), rstd, mask)
        return torch.cat([sums.flatten(), lse[:1].flatten()])

    assert torch.autograd.gradcheck(sums_of_found_rows, (queries, rstd, *leaf_parts))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_operator_is_well_formed() -> None:
    parts = [torch.randn(2, 3, 4, 2, requires_grad=True), torch.randn(1, 3, 1, 3)]
    rstd = torch.rand(2, 3, 4, requires_grad=True)
    torch.library.opcheck(read_tokens, (torch.randn(1, 5, 5, requires_grad=True), parts, rstd, None))
    torch.library.opcheck(read_tokens, (torch.randn(2, 5, 5), parts, rstd, torch.rand(2, 3, 4) < 0.5))


@given(layouts(max_blocks=2, offsets=(0.0,)))
@settings(max_examples=40)
def test_masked_content_never_changes_a_bit(plan: list[Layout]) -> None:
    torch.manual_seed(plan[0].seed)
    blocks = converted(build(plan), torch.float32)
    poisoned = []
    for block in blocks:
        content = block.parts[0].detach().clone()
        if block.mask is not None:
            content[~block.mask] = torch.tensor([float("nan"), 1e30, float("inf")])[torch.randint(3, (1,))]
        poisoned.append(Tokens(parts=(content.requires_grad_(), *block.parts[1:]), mask=block.mask))
    weights, query = projection(blocks[0].channels, 1, torch.float32), torch.randn(1, 1, 3, 2, requires_grad=True)
    out, grads = run(factored_attention, query, blocks, weights)
    other, other_grads = run(factored_attention, query, poisoned, weights)
    assert torch.equal(out, other)
    for grad, poisoned_grad in zip(grads, other_grads, strict=True):
        assert torch.equal(grad, poisoned_grad)


def test_sample_without_valid_token_reads_zeros_in_every_form() -> None:
    mask = torch.ones(2, 4, 5, dtype=torch.bool)
    mask[1] = False
    tokens = [Tokens(parts=(torch.randn(2, 4, 5, 3), torch.randn(1, 4, 1, 4)), mask=mask)]
    weights, query = projection(7, 2, torch.float32), torch.randn(1, 2, 3, 2)
    for form in (dense_attention, factored_attention):
        out = form(query, tokens, weights)
        assert torch.equal(out[1], torch.zeros_like(out[1]))
        assert bool((out[0] != 0).all())


@given(layouts(max_blocks=1), st.integers(1, 5))
@example([Layout(((2, 3, 1), (1, 3, 1)), "partial", 0.0, 0)], 1)
@example([Layout(((2, 3, 1), (1, 3, 1)), "partial", 1e4, 0)], 1)
@example([Layout(((2, 2, 2), (1, 2, 1), (2, 1, 1)), "partial", 0.0, 0)], 1)
@example([Layout(((2, 2, 3, 1), (1, 1, 3, 2), (1, 2, 1, 1)), "partial", 0.0, 0)], 3)
@settings(max_examples=80)
def test_neighbours_in_the_batch_change_no_bit(plan: list[Layout], rows: int) -> None:
    torch.manual_seed(plan[0].seed)
    (block,) = converted(build(plan), torch.float32)
    queries = torch.randn(1, rows, block.channels)
    queries = queries - queries.mean(dim=-1, keepdim=True)  # as absorbed queries are: no common offset counts
    collapsed = partial(collapse, dtype=torch.float32, eps=1e-5, standardise=native.standardise)
    together = collapsed(block)
    for number in range(block.batch):
        own = slice(number, number + 1)
        mask = None if block.mask is None else block.mask[own]
        alone = collapsed(Tokens(parts=tuple(part if part.shape[0] == 1 else part[own] for part in block.parts), mask=mask))
        among = tuple(part if part.shape[0] == 1 else part[own] for part in together.parts)
        valid = slice(None) if alone.mask is None else alone.mask[0]
        pairs = zip(*(Tokens(parts, alone.mask).cleaned().parts for parts in (alone.parts, among)), strict=True)
        same = all(torch.equal(part, other) for part, other in pairs)
        # Masks of neighbours count only where a part that they share is far from zero, and only to rounding.
        far = plan[0].offset != 0.0 and mask is not None and any(part.shape[0] < block.batch for part in block.parts)
        assert same or far
        if same:
            assert torch.equal(alone.rstd[0][valid], together.rstd.expand(block.batch, -1, -1)[number][valid])
        for read in (read_tokens, native.read_tokens):
            sums, lse = read(queries, list(together.parts), together.rstd, together.mask)
            own_sums, own_lse = read(queries, list(alone.parts), alone.rstd, alone.mask)
            if same and read is native.read_tokens and native.availability().library is not None:
                assert torch.equal(own_sums[0], sums[number])
                assert torch.equal(own_lse[0], lse[number])
            if same:
                torch.testing.assert_close(own_sums[0], sums[number], rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(_centred(own_sums[0]), _centred(sums[number]), rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(own_lse[0], lse[number], rtol=1e-5, atol=1e-5)


def _centred(sums: Tensor) -> Tensor:
    """Sums over the tokens without their common offset, which attention ignores."""
    return sums - sums.mean(dim=-1, keepdim=True)


def test_result_of_a_sample_does_not_depend_on_its_batch() -> None:
    content, table = torch.randn(40, 6, 7, 3), torch.randn(1, 6, 1, 4)
    weights, query = projection(7, 1, torch.float32), torch.randn(1, 1, 8, 2)
    together = factored_attention(query, [Tokens(parts=(content, table))], weights)
    for row in (0, 17, 39):
        alone = factored_attention(query, [Tokens(parts=(content[row : row + 1], table))], weights)
        # Only the matrix products around the inner function may round differently.
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-6, atol=1e-6)
    assert torch.equal(together, factored_attention(query, [Tokens(parts=(content, table))], weights))


def test_bfloat16_autocast_keeps_float32_accuracy() -> None:
    position = Fourier(num_bands=16, resolution=(14, 14))
    parts = (torch.randn(2, 14, 14, 3), *position(grid_coordinates((14, 14))))
    attention = CrossAttention(query_channels=8, token_channels=3 + position.channels, attention="factored")
    latents = torch.randn(1, 5, 8)
    expected = attention(latents, [Tokens(parts=parts)])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = attention(latents, [Tokens(parts=parts)])
    assert bool(out.isfinite().all())
    torch.testing.assert_close(out.float(), expected, rtol=0.05, atol=0.05)


@given(layouts(offsets=(0.0, 3.0)), st.integers(1, 3), st.integers(1, 5), st.booleans())
@settings(max_examples=100)
def test_shares_of_blocks_are_sums_of_weights(plan: list[Layout], heads: int, rows: int, shared: bool) -> None:
    torch.manual_seed(plan[0].seed)
    blocks = build(plan)
    weights = projection(blocks[0].channels, heads)
    batch = max(block.batch for block in blocks)
    query = torch.randn(1 if shared else batch, heads, rows, 2, dtype=torch.float64, requires_grad=True)
    expected = [one.flatten(3).sum(dim=-1) for one in dense_weights(query, blocks, weights)]
    shares = factored_shares(query, blocks, weights)
    for share, other in zip(shares, expected, strict=True):
        torch.testing.assert_close(share.expand_as(other), other, rtol=1e-10, atol=1e-10)
    functional = sum(((place + 1) * share.sum() for place, share in enumerate(shares)), start=torch.zeros(()))
    reference = sum(((place + 1) * share.sum() for place, share in enumerate(expected)), start=torch.zeros(()))
    [grad], [other] = torch.autograd.grad(functional, query), torch.autograd.grad(reference, query)
    torch.testing.assert_close(grad, other, rtol=1e-8, atol=1e-8)


def test_shares_of_many_tokens_need_no_array_of_all_weights() -> None:
    """A video of 8 x 192 x 192 and 64 queries: all weights would be 75 MB; measured in a process of its own."""
    code = """
import resource, torch
from perceiver import Fourier, Tokens
from perceiver.attention import CrossAttention
from perceiver.tokens.positions import grid_coordinates

grid = (8, 192, 192)
position = Fourier(num_bands=4, resolution=grid)
tokens = Tokens(parts=(torch.randn(1, *grid, 3), *position(grid_coordinates(grid))))
sound = Tokens(parts=(torch.randn(1, 5, 3 + position.channels),))
layer = CrossAttention(query_channels=8, token_channels=tokens.channels)
queries = torch.randn(1, 64, 8)
with torch.no_grad():
    layer.shares(queries, [Tokens(parts=(torch.randn(1, 2, 2, 2, tokens.channels),)), sound])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    shares = layer.shares(queries, [tokens, sound])
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
torch.testing.assert_close(sum(shares), torch.ones(1, 1, 64))
print(grown)
"""
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 28_000, "kilobytes"
