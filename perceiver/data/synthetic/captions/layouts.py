"""Random layouts of scenes, drawn in bulk: digits of two sizes, apart from one another and in clear relations."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from perceiver.data.synthetic.captions.language import MARGIN

MOST = 3
"""Most digits of a scene."""

_TRIES = 16  # layouts drawn for a scene at a time
_ROUNDS = 500


@dataclass(frozen=True, kw_only=True)
class Layouts:
    """Layouts of B scenes, digits from left to right, absent digits last.

    Args:
        present: `(B, 3)`.
        large: `(B, 3)`.
        top, left: `(B, 3)`, first row and column of each digit's square.
    """

    present: Bool[Tensor, "batch digits"]
    large: Bool[Tensor, "batch digits"]
    top: Int[Tensor, "batch digits"]
    left: Int[Tensor, "batch digits"]


def draw_layouts(count: int, *, canvas: int, sides: tuple[int, int], generator: torch.Generator | None) -> Layouts:
    """Draw layouts: one to three digits, equally often; sizes and places uniform among the layouts that are clear.

    A layout is clear if the squares are at least a pixel apart, and the centres of neighbours, from left to right, differ
    by `MARGIN` columns, and along one axis by `MARGIN` pixels more than along the other.

    Args:
        count: B.
        canvas: height and width of the scenes.
        sides: sides of the squares of small and of large digits.
        generator: random state; None: torch's own.

    Raises:
        ValueError: if the canvas is too small to find clear layouts.
    """
    present = torch.arange(MOST) <= torch.randint(MOST, (count, 1), generator=generator)
    large = torch.zeros(count, MOST, dtype=torch.bool)
    top, left = (torch.zeros(count, MOST, dtype=torch.int64) for _ in range(2))
    open_ = torch.arange(count)
    for _ in range(_ROUNDS):
        if not len(open_):
            return Layouts(present=present, large=large, top=top, left=left)
        rows = open_.repeat_interleave(_TRIES)
        size, place = _candidates(present[rows], canvas=canvas, sides=sides, generator=generator)
        clear = _clear(present[rows], size, place, sides).view(-1, _TRIES)
        found = clear.any(dim=1)
        first = (clear.int().argmax(dim=1) + torch.arange(len(open_)) * _TRIES)[found]
        done = open_[found]
        large[done], top[done], left[done] = size[first], place[0, first], place[1, first]
        open_ = open_[~found]
    raise ValueError(f"canvas: {canvas} pixels are too few for {MOST} digits of up to {max(sides)} pixels side by side.")


def _candidates(
    present: Tensor, *, canvas: int, sides: tuple[int, int], generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Draw sizes `(R, 3)` and places `(2, R, 3)`, rows and columns, in the order of the columns of the centres."""
    large = torch.rand(present.shape, generator=generator) < 0.5
    side = torch.where(large, sides[1], sides[0])
    place = (torch.rand(2, *present.shape, generator=generator) * (canvas - side + 1)).long()
    order = torch.where(present, place[1] + side / 2, torch.inf).argsort(dim=1)
    return large.gather(1, order), place.gather(2, order.expand(2, -1, -1))


def _clear(present: Tensor, large: Tensor, place: Tensor, sides: tuple[int, int]) -> Tensor:
    side = torch.where(large, sides[1], sides[0])
    clear = torch.ones(len(present), dtype=torch.bool)
    for one, other in ((0, 1), (0, 2), (1, 2)):
        after = place[:, :, one] + side[:, one] < place[:, :, other]
        before = place[:, :, other] + side[:, other] < place[:, :, one]
        apart = (after | before).any(dim=0)
        if other == one + 1:
            centres = place + side / 2
            down, right = (centres[:, :, other] - centres[:, :, one]).abs()
            apart = apart & (right > MARGIN) & ((right - down).abs() > MARGIN)
        clear &= apart | ~present[:, other]
    return clear
