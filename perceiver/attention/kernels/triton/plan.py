"""How a call is divided: which parts the kernels treat in which way, and sizes and numbers of tiles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from torch import Size

MOST_CONTENT = 8
"""Most channels of full-size parts, all together, that the kernels unroll; more are a matrix product."""

ROWS = 16
"""Rows are padded to a multiple of this, so that the kernels load and store aligned vectors of rows."""

PROGRAMS = 512
"""Programs per sample to aim for: some four for each of a large GPU's 132 multiprocessors, so that one sample fills it."""

FEWEST_LINES = 4
"""Least lines per program, which share a program's beginning and end."""

GROUPS, GROUP_FLOATS = 4, 2**22
"""Most partial gradients per sample that are summed over rows separately, and their most numbers."""


@dataclass(frozen=True)
class Tile:
    """Rows, positions on a line, channels of a product and of wide sums, warps of a program and stages of its pipeline."""

    rows: int
    inner: int
    channels: int
    sums: int
    warps: int
    stages: int = 3


def forward_tile(narrow: int, wide: int) -> Tile:
    """Return the tile of a forward kernel. Larger tiles do not fit the registers, which the tests check."""
    if wide:
        return Tile(rows=16, inner=32, channels=16, sums=64, warps=4)
    return Tile(rows=32, inner=64 if narrow <= 3 else 32, channels=16, sums=16, warps=4)


def backward_tile(narrow: int, wide: int, level: int) -> Tile:
    """Return the tile of a backward kernel that computes gradients of this level."""
    if wide:
        return Tile(rows=16, inner=32, channels=16, sums=64, warps=8, stages=2)
    if level == 0:
        return Tile(rows=32, inner=64 if narrow <= 3 else 32, channels=16, sums=16, warps=4)
    if narrow <= 3:
        return Tile(rows=32, inner=32, channels=16, sums=16, warps=4)
    return Tile(rows=16, inner=32, channels=16, sums=16, warps=8)


@dataclass(frozen=True)
class Plan:
    """A division of the tokens' channels.

    A grid with a single axis longer than one has no lines of its own; it is cut into lines of a tile's length.

    Args:
        tokens: N.
        inner: positions of the inner axis; 0 for a grid of one axis.
        narrow: indices of full-size parts whose channels are unrolled.
        wide: indices of full-size parts in matrix products; either these are all full-size parts, or there are none.
        on_inner: indices of parts that vary along the inner axis alone.
        on_outer: indices of the others, that vary along the outer axis or not at all.
    """

    tokens: int
    inner: int
    narrow: tuple[int, ...]
    wide: tuple[int, ...]
    on_inner: tuple[int, ...]
    on_outer: tuple[int, ...]

    def lines(self, tile: Tile) -> tuple[int, int]:
        """Number of lines and their length."""
        length = self.inner or tile.inner
        return -(-self.tokens // length), length


def plan(shapes: Sequence[Size], outer: int, inner: int) -> Plan:
    """Return the plan for parts of these shapes, `(b, outer or 1, inner or 1, c)`."""
    tokens = outer * inner
    full = [index for index, shape in enumerate(shapes) if prod(shape[1:3]) == tokens > 1]
    narrow = sum(shapes[index][-1] for index in full) <= MOST_CONTENT
    on_inner = [index for index, shape in enumerate(shapes) if index not in full and shape[2] > 1]
    return Plan(
        tokens=tokens,
        inner=inner if min(outer, inner) > 1 else 0,
        narrow=tuple(full) if narrow else (),
        wide=() if narrow else tuple(full),
        on_inner=tuple(on_inner),
        on_outer=tuple(index for index in range(len(shapes)) if index not in full and index not in on_inner),
    )


def chunks_of_lines(lines: int, others: int) -> tuple[int, int]:
    """Return the number of chunks and the lines per chunk.

    It depends on the shapes of one sample, so that its result is the same in every batch.

    Args:
        others: programs per sample and chunk.
    """
    chunks = max(1, min(PROGRAMS // others, lines // FEWEST_LINES))
    per_chunk = -(-lines // chunks)
    return -(-lines // per_chunk), per_chunk


def groups_of_rows(row_blocks: int, gradients: int) -> tuple[int, int]:
    """Return the number of groups and the blocks of rows per group, for this many numbers of partial gradients per group."""
    groups = max(1, min(GROUPS, row_blocks, GROUP_FLOATS // max(gradients, 1)))
    per_group = -(-row_blocks // groups)
    return -(-row_blocks // per_group), per_group
