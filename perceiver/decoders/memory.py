"""Memory: what a decoder of sequences reads at every step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor, nn

from perceiver.attention import CrossAttend
from perceiver.attention.projection import lecun_linear
from perceiver.runtime.regularising import regularising
from perceiver.tokens.tokens import Tokens

LATENTS = "latents"


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Blocks of tokens of one width, by name: "latents", and the modalities of written tokens.

    Args:
        blocks: at least one block; those of an absent modality are missing.

    Examples:
        >>> import torch
        >>> from perceiver import Tokens
        >>> from perceiver.decoders import Memory
        >>> memory = Memory(blocks={"image": Tokens(parts=(torch.rand(2, 4, 5, 8),))})
        >>> {name: weights.shape for name, weights in memory.split(torch.rand(2, 3, 7, 20)).items()}
        {'image': torch.Size([2, 3, 7, 4, 5])}
    """

    blocks: Mapping[str, Tokens]

    @property
    def batch(self) -> int:
        """B."""
        return max(block.batch for block in self.blocks.values())

    def rows(self, index: Int[Tensor, "rows"]) -> Memory:
        """Return the memory of the samples `index`, in this order."""
        blocks = {}
        for name, block in self.blocks.items():
            parts = tuple(part if part.shape[0] == 1 else part[index] for part in block.parts)
            mask = block.mask if block.mask is None or block.mask.shape[0] == 1 else block.mask[index]
            blocks[name] = Tokens(parts=parts, mask=mask)
        return Memory(blocks=blocks)

    def split(self, weights: Float[Tensor, "batch heads queries tokens"]) -> dict[str, Tensor]:
        """Split weights over all tokens, in the order of the blocks, into `(B, h, L, *grid)` by name."""
        pieces = weights.split([block.num_tokens for block in self.blocks.values()], dim=-1)
        return {
            name: piece.reshape(*piece.shape[:-1], *block.grid)
            for (name, block), piece in zip(self.blocks.items(), pieces, strict=True)
        }


class LatentMemory(nn.Module):
    """The latents of the encoder: N tokens, whatever the length of the inputs.

    Args:
        latent_channels: latent width D.

    Examples:
        >>> import torch
        >>> from perceiver.decoders import LatentMemory
        >>> LatentMemory(latent_channels=32)(torch.rand(2, 8, 32), {}).blocks["latents"].grid
        (8,)
    """

    def __init__(self, *, latent_channels: int) -> None:
        super().__init__()
        self.channels = latent_channels

    def forward(self, latents: Float[Tensor, "batch latents channels"], tokens: Mapping[str, Tokens]) -> Memory:
        """Latents `(B, N, D)` -> one block."""
        return Memory(blocks={LATENTS: Tokens(parts=(latents,))})


@regularising(dropout=0.0)
class WrittenMemory(nn.Module):
    """The input's own tokens after each has read the latents, on their grids and with their masks.

    As the output queries of Perceiver IO (section 3.2) that are made of the input, with the query added to what it reads.

    Args:
        latent_channels: latent width D.
        token_channels: width C of the fused tokens.
        channels: width of the memory; None takes `latent_channels`.
        num_heads: attention heads.
        widening: hidden channels of the feed-forward layer per channel.
        modalities: write the tokens of these only; None: of all.
        with_latents: add the latents to the memory; they must have the same width.
        dropout: probability of dropping a channel before each residual in training.

    Raises:
        ValueError: if `with_latents` is set and the widths differ.

    Examples:
        >>> import torch
        >>> from perceiver import Tokens
        >>> from perceiver.decoders import WrittenMemory
        >>> write = WrittenMemory(latent_channels=32, token_channels=12)
        >>> memory = write(torch.rand(2, 8, 32), {"image": Tokens(parts=(torch.rand(2, 5, 6, 12),))})
        >>> memory.blocks["image"].grid, memory.blocks["image"].channels
        ((5, 6), 32)
    """

    def __init__(
        self,
        *,
        latent_channels: int,
        token_channels: int,
        channels: int | None = None,
        num_heads: int = 4,
        widening: int = 1,
        modalities: Sequence[str] | None = None,
        with_latents: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.channels = latent_channels if channels is None else channels
        if with_latents and self.channels != latent_channels:
            raise ValueError(
                f"WrittenMemory.with_latents: expected channels = latent_channels = {latent_channels}, since one attention "
                f"reads both; got {self.channels}."
            )
        self.modalities = None if modalities is None else tuple(sorted(modalities))
        self.with_latents = with_latents
        # A token is wider than needed: its positions are of use to attention, not to the sum of residuals.
        self.project = lecun_linear(token_channels, self.channels)
        self.cross_attend = CrossAttend(
            query_channels=self.channels,
            token_channels=latent_channels,
            num_heads=num_heads,
            qk_channels=self.channels,
            widening=widening,
            dropout=dropout,
            attention="dense",
        )

    def forward(self, latents: Float[Tensor, "batch latents channels"], tokens: Mapping[str, Tokens]) -> Memory:
        """Latents `(B, N, D)` and fused tokens by modality -> a block for each present modality.

        Raises:
            ValueError: if none of the modalities is present.
        """
        names = [name for name in tokens if self.modalities is None or name in self.modalities]
        if not names:
            raise ValueError(
                f"WrittenMemory: expected tokens of at least one of {list(self.modalities or [])}, got {sorted(tokens)}."
            )
        read = [Tokens(parts=(latents,))]
        blocks = {}
        for name in names:
            block = tokens[name].cleaned()
            dense = self.project(block.dense().to(self.project.weight.dtype))
            written = self.cross_attend(dense.expand(latents.shape[0], -1, -1), read)
            blocks[name] = Tokens(parts=(written.unflatten(1, block.grid),), mask=block.mask)
        if self.with_latents:
            blocks[LATENTS] = read[0]
        return Memory(blocks=blocks)
