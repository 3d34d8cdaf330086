"""Random masking of a modality's valid tokens for self-supervised pretraining: single tokens or whole blocks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool
from torch import Tensor

from perceiver.tokens.tokens import Tokens


class RandomMasking:
    """Choose tokens to hide: the same fraction of every sample's valid tokens, drawn independently for each sample.

    In a sample with two or more valid tokens, at least one is hidden and one stays visible; with fewer, none is hidden.

    Args:
        rate: fraction of the valid tokens to hide, in (0, 1).
        block: sizes, along the axes of the token grid, of blocks that are hidden together, such as [4, 4] for pixels or [8]
            for audio frames, which are easily predicted from their neighbours. The last block of a sample may be hidden in
            part. None: single tokens.

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
        """Return the tokens to hide, `(B, *grid)`, True where hidden; masked tokens are never hidden.

        Args:
            tokens: tokens of a single modality.
            batch: B, because tokens shared by all samples have batch size 1.
            generator: a generator on the CPU; None: the global generator of the tokens' device.

        Raises:
            ValueError: if the rank of the blocks differs from that of the grid.
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

    def _scores(self, batch: int, grid: Sequence[int], device: torch.device, generator: torch.Generator | None) -> Tensor:
        """Return scores `(B, M)`; the lowest are hidden first. Elements of a block are consecutive, in random order."""

        def draw(sizes: Sequence[int]) -> Tensor:
            if generator is None:
                return torch.rand(batch, *sizes, device=device)
            return torch.rand(batch, *sizes, generator=generator).to(device)

        if self.block is None:
            return draw(grid).flatten(1)
        coarse = draw([-(-size // step) for size, step in zip(grid, self.block, strict=True)])
        # Ranks, not draws, so that adding draws in [0, 1) does not interleave blocks.
        coarse = coarse.flatten(1).argsort(dim=1).argsort(dim=1).reshape(coarse.shape)
        for axis, (size, step) in enumerate(zip(grid, self.block, strict=True), start=1):
            coarse = coarse.repeat_interleave(step, dim=axis).narrow(axis, 0, size)
        return (coarse + draw(grid)).flatten(1)


def chosen(
    hidden: Bool[Tensor, "b *grid"], *, at_most: int | None, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Return indices of hidden tokens in the flattened grid, equally many per sample, for `Tokens.take` and decoders.

    Args:
        hidden: True where hidden.
        at_most: largest number of indices, drawn at random; None: all.
        generator: a generator on the CPU; None: the global generator of the device.

    Returns:
        Indices `(B, k)`, and whether each is really hidden `(B, k)`: samples with fewer hidden tokens are filled up.
    """
    flat = hidden.flatten(1)
    most = max(1, int(flat.sum(dim=1).max()))
    k = most if at_most is None else min(most, at_most)
    draws = torch.rand(flat.shape, generator=generator, device=None if generator is not None else flat.device)
    index = (draws.to(flat.device) + flat).topk(k, dim=1).indices.sort(dim=1).values
    return index, flat.gather(1, index)
