"""Random tokens on random grids, for the tests of every form of cross-attention."""

from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor

from perceiver import Tokens


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
