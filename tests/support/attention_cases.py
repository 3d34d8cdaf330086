"""Random tokens on random grids, for the tests of every form of cross-attention."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from hypothesis import strategies as st
from inner_calls import Call, results
from torch import Tensor

from perceiver import Tokens
from perceiver.attention.forms.dense import dense_attention
from perceiver.attention.forms.factored import factored_attention
from perceiver.attention.kernels.contract import Kernel
from perceiver.attention.projection import TokenProjection

Form = Callable[[Tensor, list[Tokens], TokenProjection], Tensor]


Read = Callable[..., tuple[Tensor, Tensor]]
"""The inner function of a kernel."""


@dataclass(frozen=True)
class Layout:
    """What one block of tokens looks like: shapes of its parts, kind of mask, offset of all values."""

    shapes: tuple[tuple[int, ...], ...]
    mask: str
    offset: float
    seed: int


@st.composite
def layouts(draw: st.DrawFn, *, max_blocks: int = 3, offsets: tuple[float, ...] = (0.0, 1e4)) -> list[Layout]:
    """One to three blocks of equal width and batch, each with its own grid of 1 to 3 axes, parts, mask and offset."""
    batch, channels = draw(st.integers(1, 3)), draw(st.integers(2, 12))
    blocks = []
    for _ in range(draw(st.integers(1, max_blocks))):
        grid = draw(st.lists(st.integers(1, 6), min_size=1, max_size=3))
        shapes: list[tuple[int, ...]] = []
        left = channels
        while left:
            width = draw(st.integers(1, left))
            if not shapes:  # content: a value of its own for each element of each sample
                shapes.append((batch, *grid, width))
            else:
                axes = [draw(st.sampled_from([1, size])) for size in (batch, *grid)]
                shapes.append((*axes, width))
            left -= width
        mask = draw(st.sampled_from(["none", "partial", "dead sample", "all dead"]))
        blocks.append(Layout(tuple(shapes), mask, draw(st.sampled_from(offsets)), draw(st.integers(0, 2**31))))
    return blocks


@st.composite
def calls(
    draw: st.DrawFn, *, batches: Sequence[int], rows: Sequence[int], outer: Sequence[int], inner: Sequence[int]
) -> Call:
    """Any layout that the inner function may see, with sizes from these.

    Args:
        batches: numbers of samples.
        rows: numbers of query rows.
        outer: sizes of the outer axis of the grid.
        inner: sizes of its inner axis.
    """
    batch, num_rows = draw(st.sampled_from(batches)), draw(st.sampled_from(rows))
    grid = draw(st.sampled_from(outer)), draw(st.sampled_from(inner))
    shapes = [
        (
            *(draw(st.sampled_from([1, size])) for size in (batch, *grid)),
            draw(st.sampled_from([1, 2, 3, 4, 8, 9, 21])),
        )
        for _ in range(draw(st.integers(1, 4)))
    ]
    torch.manual_seed(draw(st.integers(0, 2**31)))
    channels = sum(shape[-1] for shape in shapes)
    spread = draw(st.sampled_from([0.3, 1.0, 6.0])) * channels**-0.5  # flat and sharp attention
    mask = draw(st.sampled_from([None, 0.7, 0.1, 0.0]))
    return Call(
        queries=torch.randn(draw(st.sampled_from([1, batch])), num_rows, channels) * spread,
        parts=[torch.randn(shape) for shape in shapes],
        rstd=torch.rand(draw(st.sampled_from([1, batch])), *grid) + 0.5,
        mask=None if mask is None else torch.rand(draw(st.sampled_from([1, batch])), *grid) < mask,
        grad_sums=torch.randn(batch, num_rows, channels),
        grad_lse=torch.randn(batch, num_rows),
    )


def check_any_gradients(read: Read, call: Call, needs: Sequence[bool]) -> None:
    """Results and gradients do not depend on which gradients are asked for."""
    everything = results(read, call)
    asked = results(read, call, needs=needs)
    expected = everything[:2] + [grad for grad, need in zip(everything[2:], needs, strict=True) if need]
    for found, other in zip(asked, expected, strict=True):
        torch.testing.assert_close(found, other, rtol=1e-4, atol=1e-5)


def check_as_accurate_as_dense(kernel: Kernel, plan: list[Layout], *, heads: int, rows: int) -> None:
    """Compare a kernel in float32 with the dense form, and both with the dense formula in float64."""
    torch.manual_seed(plan[0].seed)
    exact_blocks = build(plan)
    channels = {"token_channels": exact_blocks[0].channels, "qk_channels": 2 * heads, "v_channels": 3 * heads}
    weights, double = TokenProjection(**channels), TokenProjection(**channels).double()
    double.load_state_dict(weights.state_dict())
    query = torch.randn(1, heads, rows, 2)
    with torch.no_grad():
        exact = dense_attention(query.double(), exact_blocks, double)
        blocks = converted(exact_blocks, torch.float32)
        dense = dense_attention(query, blocks, weights)
        compared = factored_attention(query, blocks, weights, kernel=kernel)
    scale = max(1.0, float(exact.abs().max()))
    assert float((compared - exact).abs().max()) / scale <= 2 * float((dense - exact).abs().max()) / scale + 1e-6


def build(blocks: list[Layout]) -> list[Tokens]:
    """Tokens of these layouts in float64, with gradients; values are exact in float32, to compare precisions."""
    return [_block(layout) for layout in blocks]


def _block(layout: Layout) -> Tokens:
    generator = torch.Generator().manual_seed(layout.seed)
    parts = tuple(
        torch.randn(shape, generator=generator).add(layout.offset).double().requires_grad_() for shape in layout.shapes
    )
    mask = None
    if layout.mask != "none":
        mask = torch.rand(layout.shapes[0][:-1], generator=generator) < 0.6
        if layout.mask == "dead sample":
            mask[0] = False
        elif layout.mask == "all dead":
            mask[:] = False
    return Tokens(parts=parts, mask=mask)


def converted(blocks: list[Tokens], dtype: torch.dtype) -> list[Tokens]:
    """The same blocks in another precision, with leaves of their own."""
    return [
        Tokens(parts=tuple(part.detach().to(dtype).requires_grad_() for part in block.parts), mask=block.mask)
        for block in blocks
    ]


def leaves(blocks: list[Tokens]) -> list[Tensor]:
    """All parts of all blocks."""
    return [part for block in blocks for part in block.parts]


def projection(channels: int, heads: int, dtype: torch.dtype = torch.float64) -> TokenProjection:
    """Weights with nothing at its neutral value: norm weights, norm biases and all biases random."""
    weights = TokenProjection(token_channels=channels, qk_channels=2 * heads, v_channels=3 * heads)
    for parameter in weights.parameters():
        torch.nn.init.normal_(parameter)
    return weights.to(dtype)


def run(form: Form, query: Tensor, blocks: list[Tokens], weights: TokenProjection) -> tuple[Tensor, list[Tensor]]:
    """Output, and gradients of a fixed functional of it to queries, parts and weights."""
    out = form(query, blocks, weights)
    functional = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).reshape(out.shape)
    inputs = [query, *leaves(blocks), *weights.parameters()]
    grads = torch.autograd.grad((out * functional).sum(), inputs, allow_unused=True)
    return out, [torch.zeros_like(x) if g is None else g for x, g in zip(inputs, grads, strict=True)]


def check_in_float64(form: Form, plan: list[Layout], *, heads: int, rows: int, shared: bool) -> None:
    """Compare a form with the dense formula in float64: outputs and every gradient to 1e-10.

    Args:
        shared: whether all samples have the same queries, as in a first cross-attend.
    """
    torch.manual_seed(plan[0].seed)
    blocks = build(plan)
    batch = max(block.batch for block in blocks)
    weights = projection(blocks[0].channels, heads)
    query = torch.randn(1 if shared else batch, heads, rows, 2, dtype=torch.float64, requires_grad=True)
    expected, expected_grads = run(dense_attention, query, blocks, weights)
    out, grads = run(form, query, blocks, weights)
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-10)
    largest = max(float(grad.abs().max()) for grad in expected_grads)
    for grad, other in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(grad, other, rtol=1e-10, atol=1e-10 * max(1.0, largest))


DRAWS = 7
"""Draws of values for each layout: the rounding errors of a single draw, and so the ratio of two forms, vary by chance."""


def check_in_float32(form: Form, plan: list[Layout], *, heads: int, rows: int) -> None:
    """Median errors in float32 over draws, outputs and gradients: at most twice those of the dense form plus 1e-6."""
    draws = [[replace(layout, seed=layout.seed + number) for layout in plan] for number in range(DRAWS)]
    errors = torch.tensor([_errors_in_float32(form, draw, heads=heads, rows=rows) for draw in draws]).median(dim=0).values
    own, dense = errors.reshape(2, 2)
    assert bool((own <= 2 * dense + 1e-6).all()), f"outputs and gradients: {own.tolist()}, dense {dense.tolist()}"


def _errors_in_float32(form: Form, plan: list[Layout], *, heads: int, rows: int) -> list[float]:
    """Largest errors of outputs and of gradients, of the form and then of the dense form, relative to the largest value."""
    torch.manual_seed(plan[0].seed)
    blocks = build(plan)
    query = torch.randn(1, heads, rows, 2).double().requires_grad_()
    single = TokenProjection(token_channels=blocks[0].channels, qk_channels=2 * heads, v_channels=3 * heads)
    exact_weights = projection(blocks[0].channels, heads)
    single.load_state_dict(exact_weights.state_dict())
    exact_weights.load_state_dict(single.state_dict())
    exact, exact_grads = run(dense_attention, query, blocks, exact_weights)
    # Gradients that are exactly zero come out as rounding noise in every form: measure against the largest.
    largest = max(1.0, *(float(grad.abs().max()) for grad in exact_grads))
    errors = []
    for compared in (form, dense_attention):
        single_query = query.detach().float().requires_grad_()
        out, grads = run(compared, single_query, converted(blocks, torch.float32), single)
        assert all(bool(grad.isfinite().all()) for grad in grads)
        errors.append(float((out - exact).detach().abs().max() / exact.detach().abs().max().clamp(min=1.0)))
        errors.append(
            max(float((grad - other).abs().max()) / largest for grad, other in zip(grads, exact_grads, strict=True))
        )
    return errors
