"""Canvases with one digit at a place, or with two in a relation, and their prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from perceiver.data.loading.samples import BatchedSamples
from perceiver.data.synthetic.captions.glyphs import LARGE, SMALL, Glyphs
from perceiver.data.synthetic.captions.language import MARGIN, RELATIONS
from perceiver.data.synthetic.prompts.images import drawn
from perceiver.data.synthetic.prompts.language import PAIR, PLACED, PLACES, Request, is_held_out_pair, wordings_of
from perceiver.data.synthetic.prompts.texts import text_batch
from perceiver.samples.batch import Batch

TRUTH = ("first", "second", "first_size", "second_size", "place", "relation")
"""Columns of the target of a canvas: what its prompt asks for; -1 if it does not name it."""

SMALLEST_CANVAS = 2 * LARGE
"""Two large digits side by side."""


@dataclass(frozen=True, kw_only=True)
class Canvases:
    """B canvases before they are drawn in pixels.

    Args:
        numbers: `(B, 2)`, which glyphs are drawn; the second means nothing on canvases of one digit.
        large: `(B, 2)`, their sizes.
        top, left: `(B, 2)`, first row and column of their squares.
        truth: `(B, 6)`, what the prompts ask for; see `TRUTH`.
    """

    numbers: Int[Tensor, "batch 2"]
    large: Bool[Tensor, "batch 2"]
    top: Int[Tensor, "batch 2"]
    left: Int[Tensor, "batch 2"]
    truth: Int[Tensor, "batch 6"]

    def rows(self, index: Tensor) -> Canvases:
        """Return the canvases at these positions."""
        return Canvases(**{field.name: getattr(self, field.name)[index] for field in fields(Canvases)})


@dataclass(frozen=True, kw_only=True)
class CanvasPainter:
    """Draws canvases with the digits of a split.

    Args:
        glyphs: digits to draw.
        canvas: height and width in pixels.
        num_digits: 1 or 2.
    """

    glyphs: Glyphs
    canvas: int
    num_digits: int

    def draw(self, count: int, *, held_out_share: float, generator: torch.Generator | None) -> Canvases:
        """Draw canvases at random; None takes torch's own random state.

        Args:
            count: B.
            held_out_share: share of pairs of digits that training never shows.
            generator: random state.
        """
        numbers = self._pairs(count, held_out_share=held_out_share, generator=generator)
        large = torch.rand(count, 2, generator=generator) < 0.5
        labels = self.glyphs.labels[numbers]
        named = torch.rand(count, 2, generator=generator) < 0.5
        truth = torch.full((count, len(TRUTH)), -1)
        truth[:, 0] = labels[:, 0]
        truth[:, 2:4] = torch.where(named, large.long(), -1)
        if self.num_digits == 2:
            truth[:, 1] = labels[:, 1]
            relation = torch.randint(len(RELATIONS), (count,), generator=generator)
            truth[:, 5] = relation
            top, left = related(relation, large, canvas=self.canvas, generator=generator)
        else:
            place = torch.randint(len(PLACES), (count,), generator=generator)
            truth[:, 3] = -1
            truth[:, 4] = place
            top, left = placed(place, large, canvas=self.canvas, generator=generator)
        return Canvases(numbers=numbers, large=large, top=top, left=left, truth=truth)

    def images(self, canvases: Canvases) -> Float[Tensor, "batch 1 height width"]:
        """Return the canvases in [0, 1]: light digits on black."""
        present = (torch.arange(2) < self.num_digits).expand(len(canvases.numbers), -1)
        pixels = self.glyphs.drawn(
            canvases.numbers,
            large=canvases.large,
            top=canvases.top,
            left=canvases.left,
            present=present,
            canvas=self.canvas,
        )
        return pixels[:, None] / 255

    def _pairs(self, count: int, *, held_out_share: float, generator: torch.Generator | None) -> Tensor:
        """Draw the glyphs, with the share of held-out pairs, by drawing until each pair is of the asked kind."""
        digits = len(self.glyphs.labels)
        numbers = torch.randint(digits, (count, 2), generator=generator)
        if self.num_digits == 1:
            return numbers
        asked = torch.rand(count, generator=generator) < held_out_share
        open_ = torch.arange(count)
        for _ in range(_ROUNDS):
            first, second = self.glyphs.labels[numbers[open_]].unbind(dim=1)
            wrong = ((first + second) % 10 == _HELD_OUT_SUM) != asked[open_]
            open_ = open_[wrong]
            if not len(open_):
                return numbers
            numbers[open_] = torch.randint(digits, (len(open_), 2), generator=generator)
        raise ValueError("data: the digits have no pair of the asked kind; use a source with all ten digits.")


_ROUNDS = 1000
_HELD_OUT_SUM = next(total for total in range(10) if is_held_out_pair(total, 0))


class CanvasSplit(BatchedSamples):
    """A split of canvases with prompts: fixed, or drawn anew at every access.

    Args:
        painter: draws the canvases.
        ids: prefix of the ids, before the number.
        size: number of canvases.
        canvases: fixed canvases; None: draw new ones, without held-out pairs, from torch's global random state.
        texts: prompts of the fixed canvases.
    """

    def __init__(
        self,
        painter: CanvasPainter,
        *,
        ids: str,
        size: int,
        canvases: Canvases | None = None,
        texts: Sequence[str] | None = None,
    ) -> None:
        self.painter = painter
        self.ids = ids
        self.size = size
        self.canvases = canvases
        self.texts = texts

    def __len__(self) -> int:
        return self.size

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """Return a batch of samples."""
        index = torch.as_tensor(indices)
        if self.canvases is None:
            canvases = self.painter.draw(len(index), held_out_share=0.0, generator=None)
            texts = prompts_of(canvases, held_out_share=0.0, generator=None)
        else:
            assert self.texts is not None
            canvases = self.canvases.rows(index)
            texts = [self.texts[number] for number in index.tolist()]
        ids, mask = text_batch(texts)
        return Batch(
            inputs={"image": self.painter.images(canvases), "text": ids},
            masks={} if mask is None else {"text": mask},
            target=canvases.truth,
            ids=[f"{self.ids}/{number}" for number in index.tolist()],
        )


def fixed_canvases(painter: CanvasPainter, *, ids: str, size: int, held_out_share: float, seed: int) -> CanvasSplit:
    """Return canvases that are the same at every access.

    Args:
        painter: draws them.
        ids: prefix of the ids.
        size: number of canvases.
        held_out_share: share of pairs, or of wordings of a single digit, that training never uses.
        seed: seed of the draws.
    """
    generator = torch.Generator().manual_seed(seed)
    canvases = painter.draw(size, held_out_share=held_out_share, generator=generator)
    texts = prompts_of(canvases, held_out_share=held_out_share, generator=generator)
    return CanvasSplit(painter, ids=ids, size=size, canvases=canvases, texts=texts)


def prompts_of(canvases: Canvases, *, held_out_share: float, generator: torch.Generator | None) -> list[str]:
    """Write the prompts of canvases. Half of those of one digit name no place; then `truth` forgets place and size."""
    plain = (torch.rand(len(canvases.truth), generator=generator) < 0.5).tolist()
    held_out = (torch.rand(len(canvases.truth), generator=generator) < held_out_share).tolist()
    texts = []
    for row, truth in enumerate(canvases.truth.tolist()):
        first, second, first_size, second_size, place, relation = truth
        sizes = tuple(None if size < 0 else size for size in (first_size, second_size))
        if second >= 0:
            asked = Request(digits=(first, second), sizes=sizes, relation=relation, wording=PAIR)
        elif plain[row]:
            asked = Request(digits=(first,), wording=drawn(wordings_of(first, held_out=held_out[row]), generator=generator))
            canvases.truth[row, 2:5] = -1
        else:
            asked = Request(digits=(first,), sizes=sizes[:1], place=place, wording=PLACED)
        texts.append(asked.text)
    return texts


def related(
    relation: Int[Tensor, "batch"], large: Bool[Tensor, "batch 2"], *, canvas: int, generator: torch.Generator | None
) -> tuple[Int[Tensor, "batch 2"], Int[Tensor, "batch 2"]]:
    """Place two digits: apart along the axis of their relation, and `MARGIN` pixels closer along the other.

    Args:
        relation: relation of the first to the second, in `RELATIONS`.
        large: sizes of the digits.
        canvas: height and width.
        generator: random state; None: torch's own.

    Returns:
        First rows and first columns of their squares.
    """
    count = len(relation)
    side = torch.where(large, LARGE, SMALL)
    first_leads = (relation == RELATIONS.index("left of")) | (relation == RELATIONS.index("above"))
    leader = torch.where(first_leads, side[:, 0], side[:, 1])
    follower = side.sum(dim=1) - leader
    gap = torch.rand(2, count, generator=generator).sort(dim=0).values * (canvas - leader - follower + 1)
    before, after = gap.long()
    along = torch.stack([before, before + leader + (after - before)], dim=1)
    middle = along + torch.stack([leader, follower], dim=1) / 2
    distance = middle[:, 1] - middle[:, 0]
    across_leader = (torch.rand(count, generator=generator) * (canvas - leader + 1)).long()
    free = (torch.rand(count, generator=generator) * (canvas - follower + 1)).long()
    centre = across_leader + leader / 2 - follower / 2
    reach = distance - MARGIN
    across_follower = free.clamp(min=(centre - reach).ceil(), max=(centre + reach).floor()).long().clamp(min=0)
    across_follower = torch.minimum(across_follower, canvas - follower)
    across = torch.stack([across_leader, across_follower], dim=1)
    along, across = (torch.where(first_leads[:, None], one, one.flip(1)) for one in (along, across))
    horizontal = (relation < RELATIONS.index("above"))[:, None]
    return torch.where(horizontal, across, along), torch.where(horizontal, along, across)


def placed(
    place: Int[Tensor, "batch"], large: Bool[Tensor, "batch 2"], *, canvas: int, generator: torch.Generator | None
) -> tuple[Int[Tensor, "batch 2"], Int[Tensor, "batch 2"]]:
    """Place the middle of the first digit's square in a ninth of the canvas, as far as the square stays inside.

    Args:
        place: place in `PLACES`.
        large: sizes of the digits.
        canvas: height and width.
        generator: random state; None: torch's own.

    Returns:
        First rows and first columns of the squares.
    """
    side = torch.where(large, LARGE, SMALL)
    corners = []
    for third in (place // 3, place % 3):
        middle = (third + torch.rand(len(place), generator=generator)) * canvas / 3
        corner = (middle[:, None] - side / 2).round().clamp(min=0).long()
        corners.append(torch.minimum(corner, canvas - side))
    return corners[0], corners[1]
