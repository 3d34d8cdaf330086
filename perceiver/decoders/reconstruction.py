"""Decoder of masked autoencoders: reconstruct the content of tokens from latents and the tokens' positions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jaxtyping import Float
from torch import Tensor, nn

from perceiver.adapters.content import Reconstructible
from perceiver.attention import CrossAttend
from perceiver.attention.projection import lecun_linear
from perceiver.decoders.decode import check_chunk_size, decode
from perceiver.decoders.decoder import Decoder
from perceiver.tokens.tokens import Tokens
from perceiver.tokens.zero_gradients import with_zero_gradients


class TokenPositions(nn.Module):
    """Queries from the positions of a modality's tokens: their last parts, mapped linearly to E channels.

    They contain neither the content of the tokens nor which tokens are masked.

    Args:
        modality: modality of the tokens.
        position_channels: total channels of these parts, including the padding that fusion appends.
        channels: query width E.

    Examples:
        >>> import torch
        >>> from perceiver import Tokens
        >>> from perceiver.decoders import TokenPositions
        >>> tokens = Tokens(parts=(torch.rand(2, 8, 8, 3), torch.rand(1, 8, 1, 9), torch.rand(1, 1, 8, 9)))
        >>> TokenPositions(modality="image", position_channels=18, channels=32)({"image": tokens}).parts[0].shape
        torch.Size([1, 8, 8, 32])
    """

    def __init__(self, *, modality: str, position_channels: int, channels: int) -> None:
        super().__init__()
        self.channels: int | None = channels
        self.modality = modality
        self.position_channels = position_channels
        self.project = lecun_linear(position_channels, channels)

    def forward(self, tokens: Mapping[str, Tokens]) -> Tokens:
        """Convert fused tokens to queries `(B or 1, *grid, E)`.

        Raises:
            ValueError: if the modality is absent, or its last parts do not add up to `position_channels` channels.
        """
        if self.modality not in tokens:
            raise ValueError(f"TokenPositions: expected tokens of {self.modality!r}, got tokens of {sorted(tokens)}.")
        block = tokens[self.modality]
        parts: list[Tensor] = []
        while sum(part.shape[-1] for part in parts) < self.position_channels and len(parts) < len(block.parts):
            parts.insert(0, block.parts[len(block.parts) - 1 - len(parts)])
        if sum(part.shape[-1] for part in parts) != self.position_channels:
            raise ValueError(
                f"TokenPositions: expected the last parts of {self.modality!r} to hold its position in "
                f"{self.position_channels} channels, got {[tuple(part.shape) for part in block.parts]}. Was the decoder "
                "built for this adapter?"
            )
        positions = Tokens(parts=tuple(parts))
        mapped = self.project(positions.dense().to(self.project.weight.dtype))
        spread = mapped.reshape(mapped.shape[0], *positions.grid, -1)
        return Tokens(parts=(spread.expand(-1, *block.grid, -1),))

    def extra_repr(self) -> str:
        """Return the description for `print(model)`."""
        return f"modality={self.modality!r}, position_channels={self.position_channels}"


class ReconstructionDecoder(Decoder):
    """The position of each token reads the latents; a linear map per modality predicts the token's content.

    He et al. 2021 (arXiv:2111.06377) reconstruct hidden tokens with a transformer over all tokens. Here, as in Perceiver IO,
    a single cross-attend does, whose cost depends only on the number of decoded tokens.

    Args:
        latent_channels: latent width D.
        token_channels: width C of the fused tokens.
        adapters: adapters of the model; those that are `perceiver.adapters.Reconstructible` are reconstructed.
        modalities: reconstruct only these; None: all.
        query_channels: query width E; None takes `latent_channels`.
        num_heads: number of attention heads.
        widening: hidden channels of the feed-forward layer per channel.
        chunk_size: number of queries at a time, see `decode`.
        dropout: probability of dropping a channel before each residual in training.

    Raises:
        ValueError: if nothing can be reconstructed; states why.

    Examples:
        >>> import torch
        >>> from perceiver import Fourier
        >>> from perceiver.adapters import ImagePixels
        >>> from perceiver.decoders import ReconstructionDecoder
        >>> image = ImagePixels(image_channels=3, position=Fourier(num_bands=4, resolution=(8, 8)))
        >>> decoder = ReconstructionDecoder(latent_channels=64, token_channels=image.channels, adapters={"image": image})
        >>> decoder(torch.rand(2, 16, 64), tokens={"image": image(torch.rand(2, 3, 8, 8))})["image"].shape
        torch.Size([2, 8, 8, 3])
    """

    output_channels: dict[str, int]

    def __init__(
        self,
        *,
        latent_channels: int,
        token_channels: int,
        adapters: Mapping[str, nn.Module],
        modalities: Sequence[str] | None = None,
        query_channels: int | None = None,
        num_heads: int = 4,
        widening: int = 1,
        chunk_size: int = 16384,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_chunk_size(chunk_size, owner="ReconstructionDecoder")
        channels = latent_channels if query_channels is None else query_channels
        self.chunk_size = chunk_size
        self.output_channels = {}
        self.queries = nn.ModuleDict()
        self.outputs = nn.ModuleDict()
        for name in _reconstructed(adapters, modalities):
            adapter = adapters[name]
            assert isinstance(adapter, Reconstructible)
            self.output_channels[name] = adapter.content_channels
            self.queries[name] = TokenPositions(
                modality=name,
                position_channels=adapter.position_channels + token_channels - adapter.channels,
                channels=channels,
            )
            self.outputs[name] = lecun_linear(channels, adapter.content_channels)
        self.cross_attend = CrossAttend(
            query_channels=channels,
            token_channels=latent_channels,
            num_heads=num_heads,
            qk_channels=channels,
            widening=widening,
            dropout=dropout,
            attention="dense",
        )

    def forward(
        self,
        latents: Float[Tensor, "batch latents channels"],
        *,
        tokens: Mapping[str, Tokens] | None = None,
        adapters: Mapping[str, nn.Module] | nn.ModuleDict | None = None,
        index: Mapping[str, Tensor | None] | None = None,
        mask: Mapping[str, Tensor | None] | None = None,
    ) -> dict[str, Float[Tensor, "batch *grid content"]]:
        """Map latents and tokens to `(B, *grid, c)` for each present modality, or `(B, k, c)` for one with an index.

        The tokens' content is ignored. See `Decoder` and `decode`.

        Raises:
            ValueError: without tokens, or for an index or mask of an absent modality.
        """
        index, mask, tokens = index or {}, mask or {}, tokens or {}
        present = [name for name in self.queries if name in tokens]
        if not present or (set(index) | set(mask)) - set(present):
            raise ValueError(
                f"ReconstructionDecoder: expected tokens of some of {sorted(self.queries)}, and an index or mask for these "
                f"only; got tokens {sorted(tokens)}, index {sorted(index)}, mask {sorted(mask)}."
            )
        # Data-parallel training waits for every parameter: parameters of absent modalities get zeros.
        for name in set(self.queries) - set(present):
            latents = with_zero_gradients(latents, [*self.queries[name].parameters(), *self.outputs[name].parameters()])
        return {
            name: decode(
                self.cross_attend,
                self.queries[name](tokens),
                latents,
                output=self.outputs[name],
                chunk_size=self.chunk_size,
                index=index.get(name),
                mask=mask.get(name),
            )
            for name in present
        }


def _reconstructed(adapters: Mapping[str, nn.Module], modalities: Sequence[str] | None) -> list[str]:
    """Return the reconstructed modalities, sorted; ValueError if a requested modality, or every modality, cannot be."""
    able = [name for name, one in adapters.items() if isinstance(one, Reconstructible) and one.content_channels > 0]
    wanted = able if modalities is None else list(modalities)
    if not wanted or set(wanted) - set(able):
        classes = {name: type(one).__name__ for name, one in sorted(adapters.items())}
        raise ValueError(
            "ReconstructionDecoder: expected adapters with content to reconstruct "
            f"(perceiver.adapters.Reconstructible) for {wanted or 'at least one modality'}, got {classes}. Tokens of "
            "a convolutional stem overlap, bare points have only positions, and text has learned embeddings."
        )
    return sorted(wanted)
