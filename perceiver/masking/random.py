"""Hiding a random share of the valid tokens of a modality, for self-supervised pretraining: single ones, or whole blocks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool
from torch import Tensor

from perceiver.tokens import Tokens


class RandomMasking:
    """Chooses tokens to hide: the same share of every sample's valid ones, drawn anew for every sample.

    Of a sample with two valid tokens or more at least one is hidden and one stays; with fewer nothing is hidden.

    Args:
        rate: share of the valid tokens that is hidden, in (0, 1).
        block: sizes along the axes of the token grid of blocks that are hidden together, such as [4, 4] for pixels or [8]
            for frames of sound, whose neighbours tell too much; the last block of a sample may be hidden in part. None:
            single tokens.

    Raises:
        ValueError: for a rate outside (0, 1), or block sizes below 1.
    """

    def __init__(self, *, rate: float, block: Sequence[int] | None = None) -> None:
        if not 0.0 < rate < 1.0:
            raise ValueError(f"RandomMasking.rate: expected a share above 0 and below 1, got {rate}.")
        if block is not None and (not block or min(block) < 1):
            raise ValueError(f"RandomMasking.block: expected sizes of at least 1, or None, got {list(block)}.")
        self.rate = rate
        self.block = None if block is None else tuple(block)

    def __call__(self, tokens: Tokens, *, batch: int, generator: torch.Generator | None = None) -> Bool[Tensor, "b *grid"]:
        """Tokens -> which of them to hide, `(B, *grid)`, True is hidden; masked tokens never are.

        Args:
            tokens: of one modality.
            batch: B; tokens that all samples share may say 1.
            generator: where to draw from, on the CPU; None: the global one of the tokens' device.

        Raises:
            ValueError: for blocks of another rank than the grid.
        """
        grid = tokens.grid
        if self.block is not None and len(self.block) != len(grid):
            raise ValueError(
                f"RandomMasking.block: expected a size for each of the {len(grid)} axes of the token grid {grid}, got "
                f"{list(self.block)}."
            )
        valid = tokens.dense_mask()
        device = tokens.device
        valid = torch.ones(batch, tokens.num_tokens, dtype=torch.bool, device=device) if valid is None else valid
        scores = self._scores(batch, grid, device, generator).masked_fill(~valid, torch.inf)
        count = valid.sum(dim=1)
        hidden = (count * self.rate).round().clamp(min=1).minimum(count - 1).clamp(min=0)
        rank = scores.argsort(dim=1).argsort(dim=1)
        return ((rank < hidden[:, None]) & valid).reshape(batch, *grid)

    def _scores(
        self, batch: int, grid: Sequence[int], device: torch.device, generator: torch.Generator | None
    ) -> Tensor:
        """`(B, M)`: what is lowest is hidden first. Elements of a block lie together, in a random order of their own."""

        def draw(sizes: Sequence[int]) -> Tensor:
            if generator is None:
                return torch.rand(batch, *sizes, device=device)
            return torch.rand(batch, *sizes, generator=generator).to(device)

        if self.block is None:
            return draw(grid).flatten(1)
        coarse = draw([-(-size // step) for size, step in zip(grid, self.block, strict=True)])
        # Ranks, not draws: the fine order must not mix two blocks.
        coarse = coarse.flatten(1).argsort(dim=1).argsort(dim=1).reshape(coarse.shape)
        for axis, (size, step) in enumerate(zip(grid, self.block, strict=True), start=1):
            coarse = coarse.repeat_interleave(step, dim=axis).narrow(axis, 0, size)
        return (coarse + draw(grid)).flatten(1)


def chosen(
    hidden: Bool[Tensor, "b *grid"], *, at_most: int | None, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """The places of hidden tokens in the flattened grid, as many for each sample, for `Tokens.take` and decoders.

    Args:
        hidden: True is hidden.
        at_most: so many of them at random; None: all.
        generator: as above.

    Returns:
        Places `(B, k)`, and which of them are really hidden `(B, k)`, where samples have fewer than others.
    """
    flat = hidden.flatten(1)
    most = max(1, int(flat.sum(dim=1).max()))
    k = most if at_most is None else min(most, at_most)
    draws = torch.rand(flat.shape, generator=generator, device=None if generator is not None else flat.device)
    index = (draws.to(flat.device) + flat).topk(k, dim=1).indices.sort(dim=1).values
    return index, flat.gather(1, index)
